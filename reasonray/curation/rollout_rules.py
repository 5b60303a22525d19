"""Predicates of the rules that judge a rollout by itself: functions of Arrow columns, listed in rules.RULES.

Each takes a table of rollouts with columns of schema.ROLLOUT_SCHEMA, annotated and measured, and the configuration. It
returns one boolean per row, without nulls: whether the rule drops the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Curation
from reasonray.curation.equations import states_a_false_equation
from reasonray.prompts import split_reasoning
from reasonray.records import Finish, Outcome
from reasonray.store.schema import answers

_NOT_JUDGED = (Outcome.FAILED, Outcome.TIMEOUT, Outcome.UNVERIFIABLE)


def failed(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which rollouts the engine or the checker failed on."""
    outcomes = pa.array([outcome.value for outcome in _NOT_JUDGED])
    return pc.or_(pc.equal(table["finish"], Finish.ERROR.value), pc.is_in(table["verdict_outcome"], value_set=outcomes))


def truncated(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which completions the token limit cut."""
    return pc.equal(table["finish"], Finish.LENGTH.value)


def no_answer(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which completions hold no final answer."""
    return pc.equal(table["verdict_outcome"], Outcome.NO_ANSWER.value)


def incorrect(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which rollouts have another verdict than CORRECT."""
    return pc.not_equal(table["verdict_outcome"], Outcome.CORRECT.value)


def no_reasoning(table: pa.Table, _: Curation) -> pa.Array:
    """Return which completions hold no reasoning before the response."""
    texts = answers(table).to_pylist()
    return pa.array([not split_reasoning(answer)[0].strip() for answer in texts], pa.bool_())


def broken_tags(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which completions have reasoning tags other than one block at the beginning."""
    return pc.equal(table["annotation_reasoning_format"], "broken")


def too_short(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    """Return which completions have fewer tokens than curation.min_tokens."""
    return pc.less(table["completion_tokens"], curation.min_tokens)


def too_long(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    """Return which completions have more tokens than curation.max_tokens."""
    return pc.greater(table["completion_tokens"], curation.max_tokens)


def repetitive(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    """Return which completions repeat a run of words curation.repetition_times or more often."""
    return pc.greater_equal(table["annotation_ngram_loop"], curation.repetition_times)


def mixed_language(table: pa.Table, curation: Curation) -> pa.ChunkedArray:
    """Return which completions have more letters of another script than curation.mixed_language allows."""
    return pc.greater(table["annotation_foreign_share"], curation.mixed_language)


def code_blocks(table: pa.Table, _: Curation) -> pa.ChunkedArray:
    """Return which completions hold a fence of code."""
    return pc.match_substring(table["completion"], "```")


def other_teacher(table: pa.Table, curation: Curation) -> pa.Array | pa.ChunkedArray:
    """Return which rollouts another teacher than curation.teachers wrote."""
    if not curation.teachers:
        return pa.repeat(False, table.num_rows)
    return pc.invert(pc.is_in(table["teacher"], value_set=pa.array(curation.teachers, table["teacher"].type)))


_LEAK = re.compile(
    r"\b(?:(?:given|provided|reference|ground[- ]truth|known|expected|official) (?:final )?(?:answer|solution)"
    r"|(?:answer|solution)(?: that)? (?:is|was|were|i was|we are|has been) (?:given|provided|told)"
    r"|(?:the|this|that) hint)\b"
    r"(?! (?:choices?|options?|format))",
    re.IGNORECASE,
)


def leaked_answer(table: pa.Table, _: Curation) -> pa.Array:
    """Return which completions mention an answer that they were given, where the question mentions none."""
    pairs = zip(table["problem_question"].to_pylist(), table["completion"].to_pylist(), strict=True)
    return pa.array([bool(_LEAK.search(text)) and not _LEAK.search(question) for question, text in pairs], pa.bool_())


def false_arithmetic(table: pa.Table, _: Curation) -> pa.Array:
    """Return which completions state a false equation of plain numbers and let it stand (equations.py)."""
    return _each(table, states_a_false_equation)


def _each(table: pa.Table, fires: Callable[[str], bool]) -> pa.Array:
    return pa.array([fires(completion) for completion in table["completion"].to_pylist()], pa.bool_())
