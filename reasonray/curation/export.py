"""Export of the data set: selected rollouts as training examples, in the layouts that trainers read.

Examples carry the student's prompt, not the teacher's, because the student will be prompted with it. The completion is
the teacher's text, character by character, from its beginning: what the teacher's prompt opened belongs to it.
"""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray import models
from reasonray.config import Prompt
from reasonray.curation.loss_weights import LOSS_WEIGHTS, loss_weights
from reasonray.curation.measures import MEASURES
from reasonray.prompts import Message, messages, whole_answer
from reasonray.records import BEHAVIOURS, content_hash, hash_fraction
from reasonray.store.schema import SCHEMA_VERSION

__all__ = ["EXPORT_SCHEMA", "LAYOUTS", "TURNS", "examples", "json_lines", "split_off", "whole_answers"]

LAYOUTS = ("sharegpt", "alpaca")
TURNS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
"""The type of a chat."""

EXPORT_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("problem_id", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("difficulty", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("prompt", TURNS, nullable=False),
        pa.field("completion", TURNS, nullable=False),
        pa.field("messages", TURNS, nullable=False),
        pa.field("completion_text", pa.string(), nullable=False),
        pa.field("teacher", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("num_steps", pa.int32(), nullable=False),
        *(pa.field(name, pa.int32(), nullable=False) for name in BEHAVIOURS),
        *(pa.field(name, kind) for name, kind in MEASURES.items()),
        pa.field("pass_rate", pa.float64()),
        pa.field("checker", pa.string(), nullable=False),
    ],
    metadata={"reasonray.schema": SCHEMA_VERSION},
)
"""One row per training example, in the conversational prompt/completion layout that trainers read."""

_COPIED = {
    "id": "id",
    "problem_id": "problem_id",
    "source": "problem_source",
    "difficulty": "problem_difficulty",
    "question": "problem_question",
    "answer": "problem_answer",
    "teacher": "teacher",
    "completion_tokens": "completion_tokens",
    **{name: f"annotation_{name}" for name in ("num_steps", *BEHAVIOURS, *MEASURES, "pass_rate")},
    "checker": "verdict_checker",
}


def examples(table: pa.Table, prompt: Prompt, loss_weight: str | None = None) -> pa.Table:
    """Return the selected rollouts of a table as training examples.

    Args:
        table: of schema.ROLLOUT_SCHEMA, annotated.
        prompt: the student's.
        loss_weight: key of [curation]; None if each example counts once.

    Returns:
        A table of EXPORT_SCHEMA; with loss weights it has the column LOSS_WEIGHTS too.
    """
    chosen = table.filter(pc.fill_null(table["annotation_selected"], False))
    prompts = [messages(prompt, question) for question in chosen["problem_question"].to_pylist()]
    texts = whole_answers(chosen)
    replies: list[list[Message]] = [[{"role": "assistant", "content": text}] for text in texts]
    columns: dict[str, Any] = {name: chosen[source] for name, source in _COPIED.items()}
    columns["model"] = pa.array([models.public_name(model) for model in chosen["model"].to_pylist()], pa.string())
    columns["completion_text"] = pa.array(texts, EXPORT_SCHEMA.field("completion_text").type)
    columns["prompt"] = pa.array(prompts, TURNS)
    columns["completion"] = pa.array(replies, TURNS)
    columns["messages"] = pa.array([turns + reply for turns, reply in zip(prompts, replies, strict=True)], TURNS)
    rows = pa.table([_cast_to(columns[field.name], field) for field in EXPORT_SCHEMA], schema=EXPORT_SCHEMA)
    return rows if loss_weight is None else rows.append_column(LOSS_WEIGHTS, loss_weights(chosen, loss_weight))


def whole_answers(rollouts: pa.Table) -> list[str]:
    """Return the answers of rollouts from their beginning: what the prompts opened of them, and the completions."""
    columns = (rollouts[name].to_pylist() for name in ("opening", "completion"))
    return [whole_answer(opening, completion) for opening, completion in zip(*columns, strict=True)]


def _cast_to(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> pa.Array | pa.ChunkedArray:
    return column if column.type == field.type else column.cast(field.type)


def split_off(table: pa.Table, share: float, seed: int) -> tuple[pa.Table, pa.Table]:
    """Return the examples for training, and those of a share of the problems, chosen by hash, for validation."""
    if not share:
        return table, table.slice(0, 0)
    problems = table["problem_id"].to_pylist()
    aside = {problem for problem in problems if hash_fraction(content_hash("validation", seed, problem)) < share}
    mask = pa.array([problem in aside for problem in problems], pa.bool_())
    return table.filter(pc.invert(mask)), table.filter(mask)


def json_lines(table: pa.Table, layout: str) -> bytes:
    """Return examples as JSON Lines, as LLaMA-Factory and Axolotl read them.

    Args:
        table: of EXPORT_SCHEMA.
        layout: "sharegpt" or "alpaca".
    """
    write = {"sharegpt": _sharegpt, "alpaca": _alpaca}[layout]
    rows = (write(turns) for turns in table["messages"].to_pylist())
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _sharegpt(turns: list[Message]) -> dict[str, Any]:
    system, dialogue = _split_system(turns)
    names = {"user": "human", "assistant": "gpt"}
    conversations = [{"from": names[turn["role"]], "value": turn["content"]} for turn in dialogue]
    return {"conversations": conversations, "system": system}


def _alpaca(turns: list[Message]) -> dict[str, Any]:
    system, dialogue = _split_system(turns)
    texts = [turn["content"] for turn in dialogue]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "system": system,
        "history": [list(pair) for pair in zip(texts[:-2:2], texts[1:-2:2], strict=True)],
    }


def _split_system(turns: list[Message]) -> tuple[str, list[Message]]:
    if turns[0]["role"] == "system":
        return turns[0]["content"], turns[1:]
    return "", turns
