"""The rollouts that a page carries: their choice within a budget, and their packing for rollouts.js.

Model text is hostile. It enters the page only inside gzip and base64, so a browser never parses it as HTML, and
rollouts.js writes it as text nodes only.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.records import BASE, STUDENT, Outcome
from reasonray.store.schema import ROLLOUT_SCHEMA, read_rollouts
from reasonray.store.storage import Place

TRAIN = "train"
"""The name under which the page shows the rollouts of train problems, in place of a model under evaluation."""
BUDGET = 20_000_000
"""Bytes of rollouts that a page carries, before compression: it stays below 20 MB, and a phone can unpack it."""
ROW_BYTES, SPAN_BYTES, TOKEN_BYTES = 400, 32, 4
"""About how many bytes a row takes without its completion, and each span, and each token of text."""
TEXT = ("opening", "completion", "problem_question", "problem_answer")
"""Columns that are read only for rollouts that the page may show."""
MARGIN = 2
"""Factor on the budget of a first choice by tokens, made before the bytes of the texts are known."""
RULE = (
    "Test problems come first: sample 0 of every problem by every model, then sample 1, and so on, alternating between "
    "the difficulties. Train rollouts follow, alternating between the combinations of difficulty, outcome and rule. "
    "Otherwise the order is that of the ids, which are hashes. Rollouts that did not fit are in the run\u2019s ledger."
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The rollouts that a page carries, packed."""

    packed: str
    """Base64 of gzip of JSON: {"problems": {id: …}, "rollouts": […]}."""
    shown: int


def pack(chosen: Mapping[str, pa.Table], change: Mapping[str, str] | None = None) -> Embedded:
    """Pack rollouts for the page.

    Args:
        chosen: rollouts by model, as `choose` returns them, with texts.
        change: test problem → gained, lost or same, as `changes` returns it.
    """
    rows = [row for arm, table in chosen.items() for row in _rows(table, arm)]
    problems = {row["problem_id"]: _problem(row) for table in chosen.values() for row in _problem_rows(table)}
    for problem_id, direction in (change or {}).items():
        if problem_id in problems:
            problems[problem_id]["change"] = direction
    payload = json.dumps({"problems": problems, "rollouts": rows}, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(payload.replace("<", "\\u003c").encode(), mtime=0)).decode()
    return Embedded(packed, len(rows))


def choose(sampled: pa.Table | None, arms: Mapping[str, pa.Table], budget: int) -> dict[str, pa.Table]:
    """Return the rollouts that the page carries by RULE: model → rollouts, with those of train problems under TRAIN.

    The choice is a prefix of one fixed order, so choosing again from a choice with a larger budget gives the same
    rollouts. The size of tables without text is estimated from their tokens: choose once by tokens, read only the
    texts of those rollouts, then choose again.

    Args:
        sampled: rollouts of train problems (columns of schema.ROLLOUT_SCHEMA, texts optional).
        arms: rollouts of test problems by model under evaluation.
        budget: bytes of completions and their rows, before compression. Test problems get half of it, and the part
            of the other half that train rollouts do not need.
    """
    train_size = int(_weights(sampled).sum()) if sampled is not None else 0
    chosen = _choose_test(arms, max(budget // 2, budget - train_size))
    spent = sum(_weights(table).sum() for table in chosen.values())
    if sampled is not None:
        chosen[TRAIN] = _choose_train(sampled, budget - int(spent))
    return chosen


def _choose_test(arms: Mapping[str, pa.Table], budget: int) -> dict[str, pa.Table]:
    """Choose sample by sample, each with the same sample of the other models, so that they can be shown together."""
    tables = {arm: table for arm, table in arms.items() if table.num_rows}
    if not tables:
        return {}
    ids = [_column(table, "problem_id") for table in tables.values()]
    difficulties = np.concatenate([_column(table, "problem_difficulty") for table in tables.values()])
    problems = np.concatenate(ids)
    samples = np.concatenate([table["sample"].to_numpy() for table in tables.values()])
    order = np.lexsort((problems, difficulties, _turn(problems, difficulties), samples))
    weights = np.concatenate([_weights(table) for table in tables.values()])
    taken = _within(order, weights, budget)
    chosen, start = {}, 0
    for arm, table in tables.items():
        chosen[arm] = table.filter(pa.array(taken[start : start + table.num_rows]))
        start += table.num_rows
    return chosen


def _choose_train(sampled: pa.Table, budget: int) -> pa.Table:
    if sampled.num_rows == 0:
        return sampled
    rule = pc.fill_null(sampled["annotation_dropped_by"], "")
    columns = (sampled["problem_difficulty"], sampled["verdict_outcome"], rule, pa.scalar("\x1f"))
    stratum = pc.binary_join_element_wise(*(column.cast(pa.large_string()) for column in columns))
    strata, ids = stratum.to_numpy().astype(np.str_), _column(sampled, "id")
    order = np.lexsort((strata, _turn(ids, strata)))
    return sampled.filter(pa.array(_within(order, _weights(sampled), budget)))


def _turn(keys: NDArray[np.str_], strata: NDArray[np.str_]) -> NDArray[np.int64]:
    """Return the rank of each key among the distinct keys of its stratum."""
    turns = np.zeros(keys.size, dtype=np.int64)
    for stratum in np.unique(strata):
        rows = strata == stratum
        turns[rows] = np.unique(keys[rows], return_inverse=True)[1]
    return turns


def _within(order: NDArray[np.int64], weights: NDArray[np.int64], budget: int) -> NDArray[np.bool_]:
    taken = np.zeros(weights.size, dtype=bool)
    taken[order[np.cumsum(weights[order]) <= budget]] = True
    return taken


def _weights(table: pa.Table) -> NDArray[np.int64]:
    """Return the bytes of each row, estimated from its tokens if the table has no texts."""
    if "completion" not in table.column_names:
        return np.asarray(table["completion_tokens"].to_numpy(), dtype=np.int64) * TOKEN_BYTES + ROW_BYTES
    texts = np.asarray(pc.binary_length(table["completion"]).to_numpy(), dtype=np.int64)
    spans = np.asarray(pc.fill_null(pc.list_value_length(table["annotation_spans"]), 0).to_numpy(), dtype=np.int64)
    return texts + spans * SPAN_BYTES + ROW_BYTES


def _column(table: pa.Table, name: str) -> NDArray[np.str_]:
    return np.asarray(table[name].to_numpy()).astype(np.str_)


def _rows(table: pa.Table, arm: str) -> list[dict[str, Any]]:
    table = table.sort_by([("problem_id", "ascending"), ("sample", "ascending"), ("id", "ascending")])
    return [_row(row, arm) for row in table.to_pylist()]


def _row(row: Mapping[str, Any], arm: str) -> dict[str, Any]:
    text = row["opening"] + row["completion"]
    return {
        "id": row["id"],
        "arm": arm,
        "by": row["teacher"],
        "problem": row["problem_id"],
        "sample": row["sample"],
        "outcome": row["verdict_outcome"],
        "extracted": row["verdict_extracted"],
        "detail": row["verdict_detail"],
        "tokens": row["completion_tokens"],
        "num_steps": row["annotation_num_steps"],
        "rule": row["annotation_dropped_by"] or "",
        "selected": bool(row["annotation_selected"]),
        "text": text,
        "spans": _spans(text, len(row["opening"]), row["annotation_spans"] or ()),
    }


def _spans(text: str, begin: int, spans: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return spans in UTF-16 code units, the units of JavaScript strings; records count characters.

    Args:
        text: the answer from its beginning.
        begin: of the completion, from which records count.
        spans: of the completion.
    """
    in_characters = [(span["behaviour"], begin + span["start"], begin + span["end"]) for span in spans]
    if not in_characters or max(text) <= "\uffff":
        return in_characters
    return [(name, _utf16_length(text[:start]), _utf16_length(text[:end])) for name, start, end in in_characters]


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _problem_rows(table: pa.Table) -> list[dict[str, Any]]:
    columns = ["problem_id", "problem_question", "problem_answer", "problem_difficulty", "problem_source"]
    distinct = table.select(columns).group_by(columns, use_threads=False).aggregate([])
    return list(distinct.sort_by("problem_id").to_pylist())


def _problem(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[f"problem_{name}"] for name in ("question", "answer", "difficulty", "source")}


def changes(arms: Mapping[str, pa.Table]) -> dict[str, str]:
    """Return for each test problem "gained", "lost" or "same".

    A problem is gained if the student has more correct samples of it than the base, lost if it has fewer.
    """
    if BASE not in arms or STUDENT not in arms:
        return {}
    before, after = (_count_correct(arms[arm]) for arm in (BASE, STUDENT))
    directions = {-1: "lost", 0: "same", 1: "gained"}
    return {
        problem: directions[int(np.sign(after[problem] - before[problem]))] for problem in before.keys() & after.keys()
    }


def _count_correct(rollouts: pa.Table) -> dict[str, int]:
    is_correct = pc.cast(pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value), pa.int64())
    by_problem = pa.table({"problem": rollouts["problem_id"], "correct": is_correct}).group_by("problem")
    table = by_problem.aggregate([("correct", "sum")])
    return dict(zip(table["problem"].to_pylist(), table["correct_sum"].to_pylist(), strict=True))


def with_columns(rows: pa.Table, files: Iterable[Place], names: Sequence[str]) -> pa.Table:
    """Return the rows with more of their columns, read one file at a time to bound the memory.

    Args:
        rows: rollouts with an `id` column.
        files: parquet files that hold these rollouts among others.
        names: columns to add.
    """
    parts = []
    for file in files:
        is_wanted = pc.is_in(read_rollouts(file, ["id"])["id"], value_set=rows["id"].combine_chunks())
        if pc.any(is_wanted).as_py():
            parts.append(read_rollouts(file, ["id", "resample", *names]).filter(is_wanted))
    if not parts:
        return pa.table({name: [] for name in ROLLOUT_SCHEMA.names}, ROLLOUT_SCHEMA)
    texts = pa.concat_tables(parts, promote_options="permissive").sort_by([("resample", "descending")])
    at = pc.index_in(
        rows["id"], value_set=texts["id"].combine_chunks()
    )  # index_in returns the first match: the newest resample
    for name in names:
        rows = rows.append_column(name, texts[name].take(at))
    return rows
