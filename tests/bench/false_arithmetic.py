"""The rule `false_arithmetic` on solutions that people wrote: what it calls false should be a mistake of theirs.

    python tests/bench/false_arithmetic.py data/gsm8k/train.jsonl

It prints each line that it calls false, to be read, and how many solutions have one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.analysis.estimators import wilson
from reasonray.curation.equations import states_a_false_equation
from tests.bench.printing import print_figures

_CALCULATOR = re.compile(r"<<.*?>>")
"""GSM8K's marks of what a calculator computes."""


def main() -> None:
    """Read the solutions, and print what is false in them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="JSON Lines with GSM8K's column `answer`")
    lines = parser.parse_args().file.read_text(encoding="utf-8").splitlines()
    solutions = [_CALCULATOR.sub("", json.loads(line)["answer"]) for line in lines]
    false = [solution for solution in solutions if states_a_false_equation(solution)]
    for solution in false:
        print(next(filter(states_a_false_equation, solution.splitlines()), solution))
    share = wilson(len(false), len(solutions))
    print_figures(
        "false_arithmetic",
        {"solutions": len(solutions), "false": len(false), "share": share.mean, "low": share.low, "high": share.high},
    )


if __name__ == "__main__":
    main()
