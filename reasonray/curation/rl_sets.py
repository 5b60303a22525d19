"""Problems for reinforcement learning with measured pass rates, in the columns of verl and prime-rl. Pure.

Problems that are always or never solved give no advantage to a group of samples (DAPO, arXiv 2503.14476); the band of
pass rates leaves them out before anything is sampled again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from reasonray.config import Prompt
from reasonray.curation.export import TURNS
from reasonray.prompts import messages
from reasonray.records import Problem

IN_BAND = "in the band"
_OWN = ("problem_id", "question", "difficulty", "pass_rate", "checker", "index", "split", "metadata")


def fates(
    problems: Iterable[Problem],
    pass_rates: Mapping[str, float],
    contaminated: Collection[str],
    band: tuple[float, float],
) -> dict[str, str]:
    """Return problem id → IN_BAND, or why the problem is left out.

    Args:
        problems: train problems.
        pass_rates: problem id → share of correct rollouts among those that were judged; none where nothing was.
        contaminated: ids of problems that overlap with held-out ones.
        band: the lowest and the highest pass rate.
    """
    return {problem.id: _fate(problem.id, pass_rates.get(problem.id), contaminated, band) for problem in problems}


def _fate(id_: str, pass_rate: float | None, contaminated: Collection[str], band: tuple[float, float]) -> str:
    if id_ in contaminated:
        return "contaminated"
    if pass_rate is None:
        return "never judged"
    return "too hard" if pass_rate < band[0] else "too easy" if pass_rate > band[1] else IN_BAND


def rl_problems(
    problems: Sequence[Problem], pass_rates: Mapping[str, float], prompt: Prompt, layout: str, split: str
) -> pa.Table:
    """Return problems as rows for a trainer.

    Args:
        problems: those to train on.
        pass_rates: of each.
        prompt: the student's.
        layout: "verl" or "prime_rl".
        split: the name of the set, which verl's rows carry.
    """
    plain = _plain_metadata(problems)
    rows = [
        WRITERS[layout](
            problem, messages(prompt, problem.question), _further(problem, number, split, pass_rates, plain)
        )
        for number, problem in enumerate(problems)
    ]
    table = pa.Table.from_pylist(rows)
    return (
        table.set_column(table.column_names.index("prompt"), "prompt", table["prompt"].cast(TURNS)) if rows else table
    )


def _further(
    problem: Problem, number: int, split: str, pass_rates: Mapping[str, float], plain: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a reward function may read besides the gold answer."""
    own: dict[str, Any] = {
        "index": number,
        "split": split,
        "problem_id": problem.id,
        "question": problem.question,
        "difficulty": problem.difficulty,
        "checker": problem.checker,
        "pass_rate": pass_rates[problem.id],
    }
    return own | {name: problem.metadata.get(name, missing) for name, missing in plain.items()}


def _plain_metadata(problems: Sequence[Problem]) -> dict[str, Any]:
    """Return the keys of metadata whose values are of one type in all problems, as a column must be.

    Returns:
        Key → the value for problems that have none: an empty list where the others have lists, else None.
    """
    names = sorted({key for problem in problems for key in problem.metadata if key not in _OWN})
    found = dict[str, Any]()
    for name in names:
        values = [problem.metadata[name] for problem in problems if name in problem.metadata]
        try:
            kind = pa.array(values).type
        except (pa.ArrowException, OverflowError):
            continue
        if not (pa.types.is_struct(kind) or pa.types.is_null(kind)):
            found[name] = [] if pa.types.is_list(kind) else None
    return found


def _verl(problem: Problem, prompt: Any, further: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "data_source": problem.source,
        "prompt": prompt,
        "ability": problem.checker,
        "reward_model": {"style": "rule", "ground_truth": problem.answer or ""},
        "extra_info": further,
    }


def _prime_rl(problem: Problem, prompt: Any, further: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "question": problem.question,
        "answer": problem.answer or "",
        "task": problem.source,
        "pass_rate": further["pass_rate"],
        "info": further,
    }


WRITERS: Mapping[str, Callable[[Problem, Any, Mapping[str, Any]], dict[str, Any]]] = {
    "verl": _verl,
    "prime_rl": _prime_rl,
}
"""Layout → the row of a problem."""
