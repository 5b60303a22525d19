"""Which rollouts are not worth learning from: a table of rules, each one a function of Arrow columns.

A rule is a name, a predicate and examples. The first rule of the configuration that fires is the rollout's
`dropped_by`; rules run in order on the rows that none has dropped yet, so the dear ones see few. A user's own rule is
`package.module:function`, called with the table and the configuration like those here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation, UserError
from reasonray.prompts import split_reasoning
from reasonray.records import Finish, Outcome

__all__ = [
    "COMPARING",
    "RULES",
    "Rule",
    "check_names",
    "first_drop",
    "of_the_user",
]

Drops = Callable[[pa.Table, Curation], pa.Array | pa.ChunkedArray]
"""One boolean per row, no nulls, from the columns of an annotated and measured table of tables.ROLLOUT_SCHEMA."""

COMPARING = ("contaminated", "pass_rate", "duplicate", "same_reasoning", "near_duplicate")
"""Named among the rules but decided by selection.py: they compare rollouts, or look at their problem."""


@dataclass(frozen=True)
class Rule:
    """Why a rollout is dropped."""

    drops: Drops
    dropped: tuple[Mapping[str, Any], ...]
    """Examples it drops: the columns that matter, the rest is as in a good rollout."""
    kept: tuple[Mapping[str, Any], ...] = ({},)
    """Examples it leaves alone; {} is a good rollout."""


def check_names(curation: Curation) -> None:
    """Find a misspelt rule before any work is done.

    Raises:
        UserError: a rule of the configuration does not exist, or a function of the user's.
    """
    if curation.score is not None:
        of_the_user("score", curation.score)
    for name in curation.rules:
        if ":" in name:
            of_the_user("rules", name)
        elif name not in COMPARING and name not in RULES:
            known = ", ".join([*RULES, *COMPARING])
            raise UserError(f"curation.rules: no rule {name!r}; choose from {known}, or name one as module:function")


@cache
def of_the_user(key: str, name: str) -> Callable[..., Any]:
    """Return the function that a key of [curation] names as `package.module:function`.

    Raises:
        UserError: it cannot be imported, or cannot be called.
    """
    module, _, function = name.partition(":")
    cure = "name it as module:function, where Python finds it"
    try:
        found: Callable[..., Any] = getattr(import_module(module), function)
    except Exception as error:  # the module is the user's: whatever it raises
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise UserError(f"curation.{key}: {name} cannot be imported ({kind}{error}); {cure}") from error
    if not callable(found):
        raise UserError(f"curation.{key}: {name} is no function; {cure}")
    return found


def first_drop(table: pa.Table, curation: Curation) -> pa.Array:
    """Return for each row the name of the first configured rule that fires, "" if none does.

    Args:
        table: columns finish, verdict_outcome, completion, completion_tokens, problem_question, and the measures of
            measures.measure_table with curation.repetition_ngram.
        curation: the rules in order and their thresholds.

    Raises:
        UserError: a rule of the configuration does not exist.
    """
    check_names(curation)
    fates = np.full(table.num_rows, "", dtype=object)
    alive = np.arange(table.num_rows)
    for name in curation.rules:
        if name in COMPARING or not alive.size:
            continue
        rows = table if alive.size == table.num_rows else table.take(pa.array(alive))
        drops = RULES[name].drops if name in RULES else of_the_user("rules", name)
        fires = _to_numpy(drops(rows, curation))
        if fires.shape != alive.shape:
            raise UserError(f"curation.rules: {name} gave {fires.size} booleans for {alive.size} rollouts")
        if fires.dtype != np.bool_:
            if strange := [it for it in fires.tolist() if not isinstance(it, bool)]:
                raise UserError(f"curation.rules: {name} gave other values than true and false, such as {strange[0]!r}")
            fires = fires.astype(np.bool_)
        fates[alive[fires]] = name
        alive = alive[~fires]
    return pa.array(fates, pa.string())


def _to_numpy(mask: Any) -> np.ndarray[Any, Any]:
    if isinstance(mask, pa.Array | pa.ChunkedArray):
        mask = mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False)
    return np.asarray(mask)


def _failed(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    faults = pa.array([Outcome.FAILED.value, Outcome.TIMEOUT.value, Outcome.UNVERIFIABLE.value])
    return pc.or_(pc.equal(table["finish"], Finish.ERROR.value), pc.is_in(table["verdict_outcome"], value_set=faults))


def _truncated(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.equal(table["finish"], Finish.LENGTH.value)


def _no_answer(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.equal(table["verdict_outcome"], Outcome.NO_ANSWER.value)


def _incorrect(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.not_equal(table["verdict_outcome"], Outcome.CORRECT.value)


def _no_reasoning(table: pa.Table, _: Curation) -> pa.Array:
    return _each(table, lambda completion: not split_reasoning(completion)[0].strip())


def _broken_tags(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.equal(table["annotation_reasoning_format"], "broken")


def _too_short(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    return pc.less(table["completion_tokens"], curation.min_tokens)


def _too_long(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    return pc.greater(table["completion_tokens"], curation.max_tokens)


def _repetitive(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    return pc.greater_equal(table["annotation_ngram_loop"], curation.repetition_times)


def _mixed_language(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    return pc.greater(table["annotation_foreign_share"], curation.mixed_language)


def _code_blocks(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    return pc.match_substring(table["completion"], "```")


_LEAK = re.compile(
    r"\b(?:(?:given|provided|reference|ground[- ]truth|known|expected|official) (?:final )?(?:answer|solution)"
    r"|(?:answer|solution)(?: that)? (?:is|was|were|i was|we are|has been) (?:given|provided|told))\b"
    r"(?! (?:choices?|options?|format))",
    re.IGNORECASE,
)


def _leaked_answer(table: pa.Table, _: Curation) -> pa.Array:
    pairs = zip(table["problem_question"].to_pylist(), table["completion"].to_pylist(), strict=True)
    return pa.array([bool(_LEAK.search(text)) and not _LEAK.search(asked) for asked, text in pairs], pa.bool_())


# Python reads no number of more than 4300 digits, and nobody reasons with one.
_NUMBER = r"\d{1,100}(?:\.\d{1,100})?"
# One operation between two plain numbers, neither side part of a longer expression.
_EQUATION = re.compile(
    rf"(?<![\w.,+\-*/×=%(])(?<![+\-*/×=%(]\s)(-?{_NUMBER}) ?([-+*/×]) ?({_NUMBER}) ?= ?(-?{_NUMBER})"
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


def _each(table: pa.Table, fires: Callable[[str], bool]) -> pa.Array:
    return pa.array([fires(completion) for completion in table["completion"].to_pylist()], pa.bool_())


_LOOP = "<think> " + "so we add two and two and then we get four which is what we wanted to find out here today " * 6
_COUNTING = "<think> " + " ".join(f"{n} plus {n} makes {2 * n}." for n in range(200)) + " </think> 42"
_CHINESE = "小明有五个苹果，又得到七个，一共有五加七等于十二个。他吃掉三个，剩下十二减三等于九个。"
_LOOP_OF_CHARACTERS = "所以六乘以七等于四十二，这正是我们今天想要知道的结果，" * 6

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
    "no_answer": Rule(
        drops=_no_answer,
        dropped=({"verdict_outcome": "no_answer"},),
        kept=({}, {"verdict_outcome": "wrong"}),
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
            {"completion": f"<think> {'9' * 5000} + 1 = {'9' * 5000} </think> The answer is 42."},
        ),
    ),
    "too_short": Rule(
        drops=_too_short,
        dropped=({"completion_tokens": 7},),
        kept=({}, {"completion_tokens": 8}),
    ),
    "too_long": Rule(
        drops=_too_long,
        dropped=({"completion_tokens": 16385},),
        kept=({}, {"completion_tokens": 16384}),
    ),
    "repetitive": Rule(
        drops=_repetitive,
        dropped=(
            {"completion": _LOOP + "</think> 42"},
            {"completion": "<think> " + _LOOP_OF_CHARACTERS + "</think> 42"},
        ),
        kept=({}, {"completion": _COUNTING}, {"completion": f"<think> {_CHINESE} </think> 答案是 9。"}),
    ),
    "mixed_language": Rule(
        drops=_mixed_language,
        dropped=(
            {"completion": "<think> Now 6 * 7 也就是四十二, and so that is 42. </think> The answer is 42."},
            {"completion": "<think> Let us multiply: шесть раз по семь. </think> The answer is 42."},
            {"completion": "<think> Let us multiply: έξι επί επτά ίσον σαράντα δύο. </think> The answer is 42."},
            {"completion": "<think> Let us multiply: ছয় গুণ সাত সমান বিয়াল্লিশ. </think> The answer is 42."},
        ),
        kept=(
            {},
            {"completion": "<think> 六乘以七等于四十二。 </think> 答案是 42。"},
            {"completion": f"<think> {_CHINESE} </think> The answer is 9."},
            {"completion": f"<think> {_CHINESE}\n```python\nprint(sum(range(10)))\n``` </think> 答案是 9。"},
            {"completion": "<think> Let α = π/6, so Δ = 2α and naïve café. </think> The answer is 42."},
        ),
    ),
    "code_blocks": Rule(
        drops=_code_blocks,
        dropped=({"completion": "<think> Run it:\n```python\nprint(6 * 7)\n``` </think> The answer is 42."},),
        kept=({}, {"completion": "<think> `6 * 7` is 42. </think> The answer is 42."}),
    ),
    "leaked_answer": Rule(
        drops=_leaked_answer,
        dropped=(
            {"completion": "<think> It matches the given answer. </think> The answer is 42."},
            {"completion": "<think> The answer is provided: 42. </think> The answer is 42."},
            {"completion": "<think> The reference solution says 42. </think> The answer is 42."},
        ),
        kept=(
            {},
            {"completion": "<think> It is none of the given answer choices. </think> The answer is 42."},
            {"problem_question": "Is the given answer 42 right?", "completion": "<think> The given answer is 42."},
        ),
    ),
}
"""Every rule that judges a rollout by itself, by the name it has in the configuration and the report."""
