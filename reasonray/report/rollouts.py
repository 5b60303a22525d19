"""Which rollouts the page carries, and how: rows of JSON, packed, for rollouts.js to unpack and show.

Model text is hostile. It leaves here only inside gzip and base64, so nothing of it is ever parsed as HTML, and
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

from reasonray.records import Outcome
from reasonray.store.schema import ROLLOUT_SCHEMA, read_rollouts
from reasonray.store.storage import Place

TRAIN = "train"
"""The arm's name under which the sampled rollouts of train problems are shown."""
BUDGET = 20_000_000
"""Bytes of rollouts that a page carries, before packing: it then stays below 20 MB, and a phone can unpack it."""
ROW_BYTES, SPAN_BYTES, TOKEN_BYTES = 400, 32, 4
"""What a row takes beside its completion, each of its spans, and a token of text; about."""
TEXT = ("completion", "problem_question", "problem_answer")
"""Columns that are read only for the rollouts that the page shows."""
MARGIN = 2
"""How many times the page's budget is chosen by tokens, before the bytes are known."""
RULE = (
    "Test problems come first: attempt 0 of every problem in every arm, then attempt 1, and so on, the difficulties in "
    "turn; then train rollouts, one of each difficulty, outcome and rule in turn. Within a turn the order is that of "
    "the ids, which are hashes. What did not fit is in the run's ledger."
)


@dataclass(frozen=True, slots=True)
class Embedded:
    """The rollouts that the page carries."""

    packed: str
    """Base64 of gzip of JSON: {"problems": {id: …}, "rollouts": […]}."""
    shown: int


def pack(chosen: Mapping[str, pa.Table], change: Mapping[str, str] | None = None) -> Embedded:
    """Pack rollouts for the page.

    Args:
        chosen: what `choose` returned, with texts.
        change: what `changes` says of the test problems.
    """
    rows = [row for arm, table in chosen.items() for row in _rows(table, arm)]
    problems = {row["problem_id"]: _problem(row) for table in chosen.values() for row in _problem_rows(table)}
    for problem_id, word in (change or {}).items():
        if problem_id in problems:
            problems[problem_id]["change"] = word
    payload = json.dumps({"problems": problems, "rollouts": rows}, ensure_ascii=False, separators=(",", ":"))
    packed = base64.b64encode(gzip.compress(payload.replace("<", "\\u003c").encode(), mtime=0)).decode()
    return Embedded(packed, len(rows))


def choose(sampled: pa.Table | None, arms: Mapping[str, pa.Table], budget: int) -> dict[str, pa.Table]:
    """Return the rollouts that RULE gives the page, by arm, those of train problems as TRAIN.

    Args:
        sampled: rollouts of train problems.
        arms: rollouts of test problems by arm.
        budget: bytes of completions and their rows before packing; half of it is for test problems, and what train
            rollouts do not need.

    What is chosen is always the beginning of one order, so choosing again from what was chosen with a larger budget
    comes to the same. Tables without text are weighed by their tokens: choose so first, then read the text of those.
    """
    wanted = int(_weights(sampled).sum()) if sampled is not None else 0
    chosen = _choose_test(arms, max(budget // 2, budget - wanted))
    spent = sum(_weights(table).sum() for table in chosen.values())
    if sampled is not None:
        chosen[TRAIN] = _choose_train(sampled, budget - int(spent))
    return chosen


def _choose_test(arms: Mapping[str, pa.Table], budget: int) -> dict[str, pa.Table]:
    """Take attempts in turn, each with its siblings in the other arms, so that they can be shown side by side."""
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
    stratum = pc.binary_join_element_wise(sampled["problem_difficulty"], sampled["verdict_outcome"], rule, "\x1f")
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
    """Return the bytes of each row; without the text itself, what its tokens come to."""
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
    text = row["completion"]
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
        "spans": _spans(text, row["annotation_spans"] or ()),
    }


def _spans(text: str, spans: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    """Return the evidence in UTF-16 code units, which is how JavaScript counts; records count characters."""
    found = [(span["behaviour"], span["start"], span["end"]) for span in spans]
    if not found or max(text) <= "\uffff":
        return found
    return [(name, _utf16_length(text[:start]), _utf16_length(text[:end])) for name, start, end in found]


def _utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _problem_rows(table: pa.Table) -> list[dict[str, Any]]:
    columns = ["problem_id", "problem_question", "problem_answer", "problem_difficulty", "problem_source"]
    distinct = table.select(columns).group_by(columns, use_threads=False).aggregate([])
    return list(distinct.sort_by("problem_id").to_pylist())


def _problem(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[f"problem_{name}"] for name in ("question", "answer", "difficulty", "source")}


def changes(arms: Mapping[str, pa.Table]) -> dict[str, str]:
    """Say of each test problem whether the student gained or lost it: more or fewer correct samples than the base."""
    if "base" not in arms or "student" not in arms:
        return {}
    before, after = (_correct(arms[arm]) for arm in ("base", "student"))
    words = {-1: "lost", 0: "same", 1: "gained"}
    return {problem: words[int(np.sign(after[problem] - before[problem]))] for problem in before.keys() & after.keys()}


def _correct(rollouts: pa.Table) -> dict[str, int]:
    counted = pa.table(
        {
            "problem": rollouts["problem_id"],
            "correct": pc.cast(pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value), pa.int64()),
        }
    ).group_by("problem")
    table = counted.aggregate([("correct", "sum")])
    return dict(zip(table["problem"].to_pylist(), table["correct_sum"].to_pylist(), strict=True))


def with_columns(rows: pa.Table, files: Iterable[Place], names: Sequence[str]) -> pa.Table:
    """Return the rows with columns that only their files hold, file by file: memory holds one and what is wanted."""
    parts = []
    for file in files:
        wanted = pc.is_in(read_rollouts(file, ["id"])["id"], value_set=rows["id"].combine_chunks())
        if pc.any(wanted).as_py():
            parts.append(read_rollouts(file, ["id", "resample", *names]).filter(wanted))
    if not parts:
        return pa.table({name: [] for name in ROLLOUT_SCHEMA.names}, ROLLOUT_SCHEMA)
    texts = pa.concat_tables(parts, promote_options="permissive").sort_by([("resample", "descending")])
    at = pc.index_in(rows["id"], value_set=texts["id"].combine_chunks())  # the first: of the newest round
    for name in names:
        rows = rows.append_column(name, texts[name].take(at))
    return rows
