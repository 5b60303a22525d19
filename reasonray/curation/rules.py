"""Which rollouts are not worth learning from: a table of rules, each one a function of Arrow columns.

A rule is a name, a predicate and examples. The first rule of the configuration that fires is the rollout's
`dropped_by`; rules run in order on the rows that none has dropped yet, so the dear ones see few.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.prompts import REASONING_CLOSE, REASONING_OPEN, split_reasoning
from reasonray.records import Finish, Outcome

__all__ = ["DUPLICATE", "RULES", "Rule", "check_names", "first_drop"]

DUPLICATE = "duplicate"
"""Named among the rules but decided by selection.py: it compares rollouts instead of judging one."""


@dataclass(frozen=True)
class Rule:
    """Why a rollout is dropped."""

    drops: Callable[[pa.Table, Curation], pa.Array | pa.ChunkedArray]
    """One boolean per row, no nulls; reads finish, verdict_outcome, completion, completion_tokens."""
    dropped: tuple[Mapping[str, Any], ...]
    """Examples it drops: the columns that matter, the rest is as in a good rollout."""
    kept: tuple[Mapping[str, Any], ...] = ({},)
    """Examples it leaves alone; {} is a good rollout."""


def check_names(curation: Curation) -> None:
    """Find a misspelt rule before any work is done.

    Raises:
        UserError: a rule of the configuration does not exist.
    """
    for name in curation.rules:
        if name != DUPLICATE and name not in RULES:
            raise UserError(f"curation.rules: no rule {name!r}; choose from {', '.join([*RULES, DUPLICATE])}")


def first_drop(table: pa.Table, curation: Curation) -> pa.Array:
    """Return for each row the name of the first configured rule that fires, "" if none does.

    Args:
        table: columns finish, verdict_outcome, completion and completion_tokens.
        curation: the rules in order and their thresholds.

    Raises:
        UserError: a rule of the configuration does not exist.
    """
    check_names(curation)
    fates = np.full(table.num_rows, "", dtype=object)
    alive = np.arange(table.num_rows)
    for name in curation.rules:
        if name == DUPLICATE or not alive.size:
            continue
        rows = table if alive.size == table.num_rows else table.take(pa.array(alive))
        fires = _to_numpy(RULES[name].drops(rows, curation))
        fates[alive[fires]] = name
        alive = alive[~fires]
    return pa.array(fates, pa.string())


def _to_numpy(mask: pa.Array | pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.bool_]]:
    values = mask.combine_chunks() if isinstance(mask, pa.ChunkedArray) else mask
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=bool)


def _failed(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    faults = pa.array([Outcome.FAILED.value, Outcome.TIMEOUT.value, Outcome.UNVERIFIABLE.value])
    return pc.or_(pc.equal(table["finish"], Finish.ERROR.value), pc.is_in(table["verdict_outcome"], value_set=faults))


def _truncated(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.equal(table["finish"], Finish.LENGTH.value)


def _incorrect(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.not_equal(table["verdict_outcome"], Outcome.CORRECT.value)


def _no_reasoning(table: pa.Table, _: Curation) -> pa.Array:
    return _each(table, lambda completion: not split_reasoning(completion)[0].strip())


def _broken_tags(table: pa.Table, _: Curation) -> pa.Array:
    return _each(table, _has_broken_tags)


def _has_broken_tags(completion: str) -> bool:
    opened, closed = completion.count(REASONING_OPEN), completion.count(REASONING_CLOSE)
    # Some chat templates put the opening tag into the prompt: a lone closing tag is whole.
    if closed != 1 or opened > 1:
        return bool(opened or closed)
    before, _, after = completion.partition(REASONING_CLOSE)
    return REASONING_OPEN in after or bool(opened and before.partition(REASONING_OPEN)[0].strip())


def _too_long(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    return pc.greater(table["completion_tokens"], curation.max_tokens)


def _repetitive(table: pa.Table, curation: Curation) -> pa.Array:
    size, times = curation.repetition_ngram, curation.repetition_times
    return _each(table, lambda completion: _repeats(completion, size, times))


# One operation between two plain numbers, neither side part of a longer expression.
_EQUATION = re.compile(
    r"(?<![\w.,+\-*/×=%(])(?<![+\-*/×=%(]\s)(-?\d+(?:\.\d+)?) ?([-+*/×]) ?(\d+(?:\.\d+)?) ?= ?(-?\d+(?:\.\d+)?)"
    r"(?!\d|[.,]\d|\s?[-+*/×^%])"
)


def _false_arithmetic(table: pa.Table, _: Curation) -> pa.Array:
    return _each(table, _states_a_false_equation)


def _states_a_false_equation(completion: str) -> bool:
    return any(not _holds(*match.groups()) for match in _EQUATION.finditer(completion))


def _holds(left: str, sign: str, right: str, stated: str) -> bool:
    a, b = Fraction(left), Fraction(right)
    if sign == "/" and b == 0:
        return False
    value = {"+": a + b, "-": a - b, "*": a * b, "×": a * b}[sign] if sign != "/" else a / b
    decimals = len(stated.partition(".")[2])
    rounding = Fraction(1, 2 * 10**decimals) if decimals else 0
    return abs(value - Fraction(stated)) <= rounding


_WORD = re.compile(r"\S+")


def _repeats(completion: str, size: int, times: int) -> bool:
    numbers: dict[str, int] = {}
    words = [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(completion)]
    windows = len(words) - size + 1
    # A pair of words that stands rarely rules out most texts before any n-gram is built.
    if windows < times or (size > 1 and max(Counter(pairwise(words)).values()) < times):
        return False
    seen: Counter[tuple[int, ...]] = Counter(tuple(words[start : start + size]) for start in range(windows))
    return max(seen.values()) >= times


def _each(table: pa.Table, fires: Callable[[str], bool]) -> pa.Array:
    return pa.array([fires(completion) for completion in table["completion"].to_pylist()], pa.bool_())


_LOOP = "<think> " + "so we add two and two and then we get four which is what we wanted to find out here today " * 6
_COUNTING = "<think> " + " ".join(f"{n} plus {n} makes {2 * n}." for n in range(200)) + " </think> 42"

RULES: dict[str, Rule] = {
    "failed": Rule(
        drops=_failed,
        dropped=(
            {"finish": "error", "verdict_outcome": "failed"},
            {"verdict_outcome": "timeout"},
            {"verdict_outcome": "unverifiable"},
        ),
        kept=({}, {"verdict_outcome": "wrong"}, {"finish": "length", "verdict_outcome": "truncated"}),
    ),
    "truncated": Rule(
        drops=_truncated,
        dropped=({"finish": "length", "verdict_outcome": "truncated"}, {"finish": "length"}),
        kept=({}, {"verdict_outcome": "no_answer"}),
    ),
    "incorrect": Rule(
        drops=_incorrect,
        dropped=({"verdict_outcome": "wrong"}, {"verdict_outcome": "no_answer"}),
    ),
    "no_reasoning": Rule(
        drops=_no_reasoning,
        dropped=({"completion": "The answer is 42."}, {"completion": "<think>\n \n</think> The answer is 42."}),
        kept=({}, {"completion": "6 * 7 = 42. </think> The answer is 42."}),
    ),
    "broken_tags": Rule(
        drops=_broken_tags,
        dropped=(
            {"completion": "<think> 6 * 7 = 42. The answer is 42."},
            {"completion": "<think> 6 <think> 7 </think> The answer is 42."},
            {"completion": "<think> 6 * 7 </think> Hm. </think> The answer is 42."},
            {"completion": "Sure. <think> 6 * 7 = 42. </think> The answer is 42."},
            {"completion": "6 * 7 = 42. </think> The answer <think> is 42."},
        ),
        kept=({}, {"completion": "6 * 7 = 42. </think> The answer is 42."}, {"completion": "The answer is 42."}),
    ),
    "false_arithmetic": Rule(
        drops=_false_arithmetic,
        dropped=(
            {"completion": "<think> 80 - 5 = 76. </think> The answer is 76."},
            {"completion": "<think> First 7 * 12 = 80, so 84 - 5 = 79. </think> The answer is 79."},
            {"completion": "<think> 1 / 3 = 0.34 </think> The answer is 0.34."},
        ),
        kept=(
            {"completion": "<think> 80 - 5 = 75. </think> The answer is 75."},
            {"completion": "<think> 2 + 3 * 4 = 14 and 1 / 3 = 0.33 </think> The answer is 14."},
            {"completion": "<think> 7 * 3 = 21 - 2 = 19 and 1,000 + 5 = 1,005 </think> The answer is 19."},
            {"completion": "<think> -2 + 5 = 3; f(x) - 3 = 9 </think> The answer is 3."},
        ),
    ),
    "too_long": Rule(
        drops=_too_long,
        dropped=({"completion_tokens": 16385},),
        kept=({}, {"completion_tokens": 16384}),
    ),
    "repetitive": Rule(
        drops=_repetitive,
        dropped=({"completion": _LOOP + "</think> 42"},),
        kept=({}, {"completion": _COUNTING}),
    ),
}
"""Every rule that judges a rollout by itself, by the name it has in the configuration and the report."""
