"""The rules that drop rollouts from the data set: one table, each rule with a summary and examples that run as tests.

The rules of a configuration apply in their order, and the first that fires is the rollout's `dropped_by`.

A RolloutRule judges a rollout by itself. It is evaluated where the text is (features.py), on the rows that no earlier
rule of its kind dropped, so that expensive rules see few. A ComparingRule compares rollouts or looks at their problem.
It is evaluated on the features of all rollouts (selection.py), on the rows that no earlier rule of either kind dropped.
A user's own rule is `package.module:function`, the predicate of a RolloutRule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reasonray.config import Curation, UserError
from reasonray.curation import comparing_rules, rollout_rules
from reasonray.curation.comparing_rules import Booleans, Comparison, Rows

__all__ = [
    "GOOD",
    "RULES",
    "ComparingRule",
    "RolloutRule",
    "check_names",
    "first_fired",
    "user_function",
    "user_modules",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutRule:
    """A rule that judges a rollout by itself."""

    summary: str
    """The rollouts that it drops, in words, after "drops a rollout if"."""
    drops: Callable[[pa.Table, Curation], pa.Array | pa.ChunkedArray]
    """One boolean per row, no nulls, from the columns of an annotated and measured table of schema.ROLLOUT_SCHEMA."""
    dropped: tuple[Mapping[str, Any], ...]
    """Examples that it drops: the columns that matter, the rest is as in a good rollout."""
    kept: tuple[Mapping[str, Any], ...] = ({},)
    """Examples that it keeps; {} is a good rollout."""
    settings: Mapping[str, Any] | None = None
    """Keys of [curation] with which the examples hold, if other than the defaults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparingRule:
    """A rule that compares rollouts, or looks at their problem."""

    summary: str
    """The rollouts that it drops, in words, after "drops a rollout if"."""
    drops: Callable[[Comparison, Rows], Booleans]
    """One boolean per candidate, from the features of all rollouts."""
    dropped: tuple[Mapping[str, Any], ...]
    """Examples that it drops where a good rollout comes before each in order of preference."""
    kept: tuple[Mapping[str, Any], ...]
    """Examples that it keeps where a good rollout comes before each; {} is a copy of the good rollout."""
    settings: Mapping[str, Any] | None = None
    """Keys of [curation] with which the examples hold, if other than the defaults."""


def check_names(curation: Curation) -> None:
    """Refuse a misspelt rule before any work is done.

    Raises:
        UserError: a rule of the configuration, or a function of the user's, does not exist.
    """
    if curation.score is not None:
        user_function("score", curation.score)
    if ":" in (curation.loss_weight or ""):
        user_function("loss_weight", curation.loss_weight or "")
    for name in curation.rules:
        if ":" in name:
            user_function("rules", name)
        elif name not in RULES:
            known = ", ".join(RULES)
            raise UserError(f"curation.rules: no rule {name!r}; choose from {known}, or name one as module:function")


@cache
def user_function(key: str, name: str) -> Callable[..., Any]:
    """Return the function that a key of [curation] names as `package.module:function`.

    Raises:
        UserError: it cannot be imported, or cannot be called.
    """
    module, _, attribute = name.partition(":")
    cure = "name it as module:function, where Python finds it"
    try:
        function: Callable[..., Any] = getattr(import_module(module), attribute)
    except Exception as error:  # importing runs the user's module, which can raise anything
        kind = "" if isinstance(error, ImportError | AttributeError) else f"{type(error).__name__}: "
        raise UserError(f"curation.{key}: {name} cannot be imported ({kind}{error}); {cure}") from error
    if not callable(function):
        raise UserError(f"curation.{key}: {name} is not a function; {cure}")
    return function


def user_modules(curation: Curation) -> list[tuple[str, str]]:
    """Return the modules that the user's own functions are named by and defined in, each with a hash of its file."""
    names = [name for name in (*curation.rules, curation.score or "", curation.loss_weight or "") if ":" in name]
    modules = {name.partition(":")[0] for name in names} | {user_function("rules", name).__module__ for name in names}
    files = ((module, getattr(import_module(module), "__file__", None)) for module in sorted(modules))
    return [(module, sha256(Path(file).read_bytes()).hexdigest()) for module, file in files if file]


def first_fired(table: pa.Table, curation: Curation) -> pa.Array:
    """Return for each row which RolloutRule of the configuration fires first.

    Args:
        table: columns finish, verdict_outcome, completion, completion_tokens, problem_question, and the measures of
            measures.measure_table with curation.repetition_ngram.
        curation: the rules in order and their thresholds.

    Returns:
        Positions in curation.rules, int32; len(curation.rules) where none fires.

    Raises:
        UserError: a rule of the configuration does not exist, or one of the user's returned no booleans.
    """
    check_names(curation)
    first = np.full(table.num_rows, len(curation.rules), np.int32)
    alive = np.arange(table.num_rows)
    for position, name in enumerate(curation.rules):
        rule = RULES.get(name)
        if isinstance(rule, ComparingRule) or not alive.size:
            continue
        rows = table if alive.size == table.num_rows else table.take(pa.array(alive))
        drops = rule.drops if rule else user_function("rules", name)
        fires = _booleans(drops(rows, curation), name, alive.size)
        first[alive[fires]] = position
        alive = alive[~fires]
    return pa.array(first)


def _booleans(mask: Any, name: str, rows: int) -> Booleans:
    """Return what a rule returned as an array of booleans, one for each row.

    Raises:
        UserError: it is anything else.
    """
    if isinstance(mask, pa.Array | pa.ChunkedArray):
        mask = mask.to_numpy() if isinstance(mask, pa.ChunkedArray) else mask.to_numpy(zero_copy_only=False)
    fires = np.asarray(mask)
    if fires.shape != (rows,):
        raise UserError(f"curation.rules: {name} returned {fires.size} booleans for {rows} rollouts")
    if fires.dtype != np.bool_:
        if others := [value for value in fires.tolist() if not isinstance(value, bool)]:
            raise UserError(f"curation.rules: {name} returned values other than true and false, such as {others[0]!r}")
        fires = fires.astype(np.bool_)
    return fires


GOOD: Mapping[str, Any] = {
    "finish": "stop",
    "verdict_outcome": "correct",
    "opening": "",
    "completion": "<think> 6 * 6 = 36, and 36 + 6 = 42. </think> The answer is 42.",
    "completion_tokens": 12,
    "teacher": "teacher",
    "problem_id": "good",
    "problem_question": "What is 6 * 7?",
}
"""The columns that matter of a good rollout, which the examples of the rules change."""
_LOOP = "<think> " + "so we add two and two and then we get four which is what we wanted to find out here today " * 6
_COUNTING = "<think> " + " ".join(f"{n} plus {n} makes {2 * n}." for n in range(200)) + " </think> 42"
_CHINESE = "小明有五个苹果，又得到七个，一共有五加七等于十二个。他吃掉三个，剩下十二减三等于九个。"
_LOOP_OF_CHARACTERS = "所以六乘以七等于四十二，这正是我们今天想要知道的结果，" * 6

RULES: dict[str, RolloutRule | ComparingRule] = {
    "failed": RolloutRule(
        summary="the engine failed, or no verdict was reached (outcome failed, timeout or unverifiable)",
        drops=rollout_rules.failed,
        dropped=(
            {"finish": "error", "verdict_outcome": "failed"},
            {"verdict_outcome": "timeout"},
            {"verdict_outcome": "unverifiable"},
        ),
        kept=({}, {"verdict_outcome": "wrong"}, {"finish": "length", "verdict_outcome": "truncated"}),
    ),
    "truncated": RolloutRule(
        summary="the token limit cut the completion",
        drops=rollout_rules.truncated,
        dropped=({"finish": "length", "verdict_outcome": "truncated"}, {"finish": "length"}),
        kept=({}, {"verdict_outcome": "no_answer"}),
    ),
    "no_answer": RolloutRule(
        summary="the completion holds no final answer",
        drops=rollout_rules.no_answer,
        dropped=({"verdict_outcome": "no_answer"},),
        kept=({}, {"verdict_outcome": "wrong"}),
    ),
    "incorrect": RolloutRule(
        summary="the verdict is anything but correct",
        drops=rollout_rules.incorrect,
        dropped=({"verdict_outcome": "wrong"}, {"verdict_outcome": "no_answer"}),
    ),
    "no_reasoning": RolloutRule(
        summary="the completion has no reasoning before the response",
        drops=rollout_rules.no_reasoning,
        dropped=({"completion": "The answer is 42."}, {"completion": "<think>\n \n</think> The answer is 42."}),
        kept=(
            {},
            {"completion": "6 * 7 = 42. </think> The answer is 42."},
            {"opening": "<think>\n", "completion": "6 * 7 = 42. </think> The answer is 42."},
        ),
    ),
    "broken_tags": RolloutRule(
        summary="the reasoning tags are not one block at the beginning: unclosed, repeated, or after other text",
        drops=rollout_rules.broken_tags,
        dropped=(
            {"completion": "<think> 6 * 7 = 42. The answer is 42."},
            {"completion": "<think> 6 <think> 7 </think> The answer is 42."},
            {"completion": "<think> 6 * 7 </think> Hm. </think> The answer is 42."},
            {"completion": "Sure. <think> 6 * 7 = 42. </think> The answer is 42."},
            {"completion": "6 * 7 = 42. </think> The answer <think> is 42."},
            {"opening": "<think>\n", "completion": "<think> 6 * 7 = 42. </think> The answer is 42."},
        ),
        kept=({}, {"completion": "6 * 7 = 42. </think> The answer is 42."}, {"completion": "The answer is 42."}),
    ),
    "false_arithmetic": RolloutRule(
        summary="states a false equation of plain numbers (80 - 5 = 76, 6 * 4 / 3 = 9) and lets it stand",
        drops=rollout_rules.false_arithmetic,
        dropped=(
            {"completion": "<think> 80 - 5 = 76. </think> The answer is 76."},
            {"completion": "<think> First 7 * 12 = 80, so 84 - 5 = 79. </think> The answer is 79."},
            {"completion": "<think> 1 / 3 = 0.34 </think> The answer is 0.34."},
            {"completion": "<think> 17 ÷ 5 = 3 R 1 and 1/3 = 0.444… </think> The answer is 3."},
            {"completion": "<think> 所以80-5=76。 </think> 答案是 76。"},
            {"completion": "<think> 2 + 3 = 6, no, 7. </think> The answer is 7."},
        ),
        kept=(
            {"completion": "<think> 80 - 5 = 75. </think> The answer is 75."},
            {"completion": "<think> 2 + 3 * 4 = 14 and 1 / 3 = 0.33 </think> The answer is 14."},
            {"completion": "<think> 7 * 3 = 21 - 2 = 19 and 1,000 + 5 = 1,005 </think> The answer is 19."},
            {"completion": "<think> -2 + 5 = 3; f(x) - 3 = 9 </think> The answer is 3."},
            {"completion": "<think> 17 ÷ 5 = 3 R 2 and 17÷5=3……2, so 17/5 = 3 2/5. </think> The answer is 3.4."},
            {"completion": "<think> 2/3 = 0.666… = 0.\\overline{6} and 7 + 8 = 3 (mod 12). </think> The answer is 3."},
            {"completion": "<think> 2+3=6, no, 5. </think> The answer is 5."},
            {"completion": f"<think> {'9' * 5000} + 1 = {'9' * 5000} </think> The answer is 42."},
        ),
    ),
    "too_short": RolloutRule(
        summary="fewer completion tokens than `min_tokens`",
        drops=rollout_rules.too_short,
        dropped=({"completion_tokens": 7},),
        kept=({}, {"completion_tokens": 8}),
    ),
    "too_long": RolloutRule(
        summary="more completion tokens than `max_tokens`",
        drops=rollout_rules.too_long,
        dropped=({"completion_tokens": 16385},),
        kept=({}, {"completion_tokens": 16384}),
    ),
    "repetitive": RolloutRule(
        summary="a run of `repetition_ngram` words occurs `repetition_times` times or more",
        drops=rollout_rules.repetitive,
        dropped=(
            {"completion": _LOOP + "</think> 42"},
            {"completion": "<think> " + _LOOP_OF_CHARACTERS + "</think> 42"},
            {"completion": "<think> So " + "haha" * 60 + " </think> 42"},
            {"completion": "<think> 1/7 = 0." + "142857" * 30 + " </think> 42"},
        ),
        kept=(
            {},
            {"completion": _COUNTING},
            {"completion": f"<think> {_CHINESE} </think> 答案是 9。"},
            {"completion": f"<think> 1/7 = 0.{'142857' * 4}\n{'-' * 120}\n|{'---|' * 60} </think> 42"},
        ),
    ),
    "mixed_language": RolloutRule(
        summary="a larger share of letters than `mixed_language` is of another script than the main one",
        drops=rollout_rules.mixed_language,
        dropped=(
            {"completion": "<think> Now 6 * 7 也就是四十二, and so that is 42. </think> The answer is 42."},
            {"completion": f"<think> {_CHINESE} THE ANSWER IS NINE </think> 答案是 9。"},
            {"completion": "<think> Let us multiply: шесть раз по семь. </think> The answer is 42."},
            {"completion": "<think> Let us multiply: έξι επί επτά ίσον σαράντα δύο. </think> The answer is 42."},
            {"completion": "<think> Let us multiply: ছয় গুণ সাত সমান বিয়াল্লিশ. </think> The answer is 42."},
        ),
        kept=(
            {},
            {"completion": "<think> 六乘以七等于四十二。 </think> 答案是 42。"},
            {"completion": f"<think> {_CHINESE} </think> The answer is 9."},
            {"completion": "<think> 在三角形ABC中，∠ABC=90°，设abc=1，sin A=0.6。 </think> 答案是 9。"},
            {"completion": "<think> 삼각형 ABC와 사각형 ABCD에서 변의 길이를 구한다. </think> 답은 9이다."},
            {"completion": f"<think> {_CHINESE}\n```python\nprint(sum(range(10)))\n``` </think> 答案是 9。"},
            {"completion": "<think> Let α = π/6, so Δ = 2α and naïve café. </think> The answer is 42."},
        ),
    ),
    "code_blocks": RolloutRule(
        summary="holds a fenced code block",
        drops=rollout_rules.code_blocks,
        dropped=({"completion": "<think> Run it:\n```python\nprint(6 * 7)\n``` </think> The answer is 42."},),
        kept=({}, {"completion": "<think> `6 * 7` is 42. </think> The answer is 42."}),
    ),
    "leaked_answer": RolloutRule(
        summary="mentions an answer that it was given, and the question does not",
        drops=rollout_rules.leaked_answer,
        dropped=(
            {"completion": "<think> It matches the given answer. </think> The answer is 42."},
            {"completion": "<think> The answer is provided: 42. </think> The answer is 42."},
            {"completion": "<think> The reference solution says 42. </think> The answer is 42."},
            {"completion": "<think> The hint says 42. </think> The answer is 42."},
        ),
        kept=(
            {},
            {"completion": "<think> It is none of the given answer choices. </think> The answer is 42."},
            {"problem_question": "Is the given answer 42 right?", "completion": "<think> The given answer is 42."},
        ),
    ),
    "other_teacher": RolloutRule(
        summary="its teacher is not one of `teachers`",
        drops=rollout_rules.other_teacher,
        dropped=({"teacher": "r1-teacher"},),
        settings={"teachers": ["teacher", "student-r1"], "rules": ["other_teacher"]},
    ),
    "contaminated": ComparingRule(
        summary="the problem overlaps with a held-out problem or an item of `benchmarks` (decontamination.py)",
        drops=comparing_rules.contaminated,
        dropped=({"problem_id": "contaminated"},),
        kept=({}, {"problem_id": "other"}),
    ),
    "pass_rate": ComparingRule(
        summary="the problem's pass rate is below `min_pass_rate` or above `max_pass_rate`",
        drops=comparing_rules.pass_rate,
        dropped=({},),
        kept=({"verdict_outcome": "wrong"}, {"problem_id": "other", "verdict_outcome": "timeout"}),
        settings={"rules": ("pass_rate",), "max_pass_rate": 0.5},
    ),
    "duplicate": ComparingRule(
        summary="has the text of a preferred rollout of the problem, but for white space",
        drops=comparing_rules.duplicate,
        dropped=({}, {"completion": GOOD["completion"].replace(" ", "\n")}),
        kept=({"problem_id": "other"}, {"completion": "<think> So 6 * 7 = 42. </think> The answer is 42."}),
    ),
    "same_reasoning": ComparingRule(
        summary="has two or more equations, the same as a preferred rollout of the problem",
        drops=comparing_rules.same_reasoning,
        dropped=({}, {"completion": "<think> We know 6*6=36, hence 36+6=42 </think> So it is 42."}),
        kept=(
            {"completion": "<think> 6 * 6 = 36, and 36 + 5 = 41. </think> The answer is 42."},
            {"completion": "<think> Six times seven. </think> The answer is 42."},
            {"problem_id": "other"},
        ),
        settings={"rules": ("same_reasoning",)},
    ),
    "near_duplicate": ComparingRule(
        summary="its word 5-grams are those of a preferred rollout of any problem (Jaccard similarity from `near` on)",
        drops=comparing_rules.near_duplicate,
        dropped=({}, {"problem_id": "other"}),
        kept=({"completion": "<think> Six times seven makes four tens and two. </think> It is 42."},),
        settings={"rules": ("near_duplicate",)},
    ),
}
"""Every rule by the name that it has in the configuration and the report."""
