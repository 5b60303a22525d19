"""The table of what each checker accepts, in the checkers' README, from the cases that have `"shown": true`.

python tests/checkers/accepted.py writes it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from reasonray.checkers import PendingCheck, begin
from reasonray.records import Finish
from tests.factories import a_problem

CASES = Path(__file__).with_name("cases.jsonl")
README = Path(__file__).parents[2] / "reasonray" / "checkers" / "README.md"
BEGIN = "<!-- Generated from tests/checkers/cases.jsonl: python tests/checkers/accepted.py -->\n"
END = "<!-- End of the generated table. -->\n"
_SIDES = ("correct", "wrong")
_MAX_METADATA = 60

Case = dict[str, Any]


def table(cases: Sequence[Case]) -> str:
    """Return the table in Markdown: a row for each checker, gold answer and metadata, answers of which are shown."""
    rows: defaultdict[tuple[str, str, str], list[Case]] = defaultdict(list)
    for case in cases:
        if case.get("shown") and case["outcome"] in _SIDES:
            rows[case["checker"], case["gold"], _options(case)].append(case)
    lines = []
    for checker in dict.fromkeys(case["checker"] for case in cases):
        lines += [f"\n`{checker}`:\n", "| gold answer | right | wrong |", "|---|---|---|"]
        for (name, gold, options), shown in rows.items():
            if name == checker:
                sides = (_answers([case for case in shown if case["outcome"] == side]) for side in _SIDES)
                lines.append(f"| {_code(gold)}{options} | {' | '.join(sides)} |")
    return "\n".join(lines).lstrip("\n") + "\n"


def document(text: str, cases: Sequence[Case]) -> str:
    """Return the README with today's table."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{README} has no lines {BEGIN.strip()} and {END.strip()}")
    return f"{before}{BEGIN}\n{table(cases)}\n{END}{after}"


def read_cases() -> list[Case]:
    """Return the cases of the tests."""
    return [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]


def _answers(cases: Sequence[Case]) -> str:
    return "; ".join(f"{_code(_extracted(case))} {case['why'].replace('|', chr(92) + '|')}" for case in cases)


def _extracted(case: Case) -> str:
    problem = a_problem(answer=case["gold"], checker=case["checker"], metadata=case.get("metadata", {}))
    begun = begin(problem, case["completion"], Finish.STOP)  # the comparison would take seconds, and is not shown
    answer = begun.answer.text if isinstance(begun, PendingCheck) else begun.verdict.extracted
    return answer or case["completion"]


def _options(case: Case) -> str:
    """Return a case's metadata; long ones are cut."""
    cells = []
    for name, value in case.get("metadata", {}).items():
        written = json.dumps(value, ensure_ascii=False)
        cells.append(f", {name} {_code(written if len(written) <= _MAX_METADATA else written[:_MAX_METADATA] + '…')}")
    return "".join(cells)


def _code(text: str) -> str:
    """Return a text as code in a cell of a table."""
    fence = "``" if "`" in text else "`"
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}".replace("|", r"\|")


if __name__ == "__main__":
    README.write_text(document(README.read_text(encoding="utf-8"), read_cases()), encoding="utf-8")
