"""A first look at recorded completions: what they hold, which problems they match, what to paste into a configuration.

Starts nothing and writes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasonray import engines, problems
from reasonray.cli.show import printable
from reasonray.config import Columns, Config, FilesSource, HubSource, Prompt, RecordedEngine
from reasonray.config.models import Asking
from reasonray.config.toml import written_value
from reasonray.engines.layouts import Layout
from reasonray.engines.recordings import Recordings, read_recordings, rows_of
from reasonray.errors import UserError
from reasonray.problems.golds import read as read_gold
from reasonray.problems.values import text_of
from reasonray.records import Problem, Split

_FILE = re.compile(r"\.(jsonl|ndjson|json|csv|parquet)(\.gz)?$|[*?\[]|^[a-z0-9]+://", re.IGNORECASE)
_ANSWERS = ("answer", "final_answer", "expected_answer", "ground_truth", "gold", "gold_answer", "target")
_SOLUTIONS = ("solution", "ground_truth_solution")
"""Columns that hold the gold answer in a box, where no other column holds it."""
_ROUND = 1024


def look(origin: str, config: Config | None, *, split: str = "train", columns: Mapping[str, str] | None = None) -> str:
    """Return how many rows match which problems, which columns were taken for what, and what is refused.

    Args:
        origin: path, glob or URI of files, or a data set of the hub.
        config: gives the problems; without one the recording's own questions become the problems.
        split: of a data set.
        columns: the columns that are not found by their names.

    Raises:
        UserError: the recording cannot be read, holds no completion, or the problems cannot be loaded.
    """
    engine = _engine(origin, split, columns or {})
    recordings = read_recordings(engine)
    (layout, _), *_ = recordings.layouts.most_common(1)
    source = None if config else _source(engine, layout, next(row for _, row in rows_of(engine)))
    lines = [*_content(recordings), *_matches(engine, config, source)]
    blocks = [*([_source_block(source)] if source else []), _teacher_block(engine, recordings)]
    return printable("\n".join([*lines, "", "# paste into the configuration:", *blocks]))


def _engine(origin: str, split: str, columns: Mapping[str, str]) -> RecordedEngine:
    place = "files" if _FILE.search(origin) or Path(origin).is_file() else "hub"
    known = RecordedEngine.model_fields["columns"].default.model_dump()
    if unknown := [name for name in columns if name not in known]:
        raise UserError(f"--column {unknown[0]}=…: there is no such part; there are {', '.join(known)}")
    return RecordedEngine.model_validate({"kind": "recorded", place: origin, "split": split, "columns": columns})


def _content(recordings: Recordings) -> list[str]:
    lines = [
        f"rows       {recordings.num_rows:>10,} rows   {recordings.num_completions:,} completions   "
        f"the longest has some {recordings.longest:,} tokens"
    ]
    lines += [f"columns    {count:>10,} rows   {layout}" for layout, count in recordings.layouts.most_common()]
    used = {part for layout in recordings.layouts for part in _parts(layout)}
    if others := [name for name in recordings.columns if name not in used]:
        lines.append(f"columns    {'not used':>10}   {', '.join(others)}")
    return lines


def _parts(layout: Layout) -> list[str]:
    return [layout.question, layout.id, layout.completion, layout.reasoning, layout.tokens, *layout.finish]


def _matches(engine: RecordedEngine, config: Config | None, source: FilesSource | HubSource | None) -> list[str]:
    """Return lines on the problems, and on the rows that match one."""
    sources = config.sources if config else [source] if source else []
    try:
        loaded = problems.load(sources)
    except UserError as error:
        if config:
            raise
        return [f"problems   these rows cannot be the problems, too: {error}"]
    train, test = ([problem for problem in loaded.problems if problem.split is part] for part in Split)
    supply = engines.supply(engine, Asking((Prompt(),)), train, test)
    assert supply is not None
    own = "" if config else "   from these rows"
    lines = [f"problems   {len(train):>10,} to distil   {len(test):,} held out{own}"]
    lines += [f"problems   {note}" for note in loaded.notes]
    lines += [f"matched    {note}" for note in supply.notes]
    return [*lines, f"matched    {_spread(train, supply.samples.tolist())}"]


def _spread(train: Sequence[Problem], counts: Sequence[int]) -> str:
    """Return how many completions the problems have."""
    ordered = sorted(counts)
    without = sum(count == 0 for count in counts)
    median = ordered[len(ordered) // 2]
    return f"{len(train) - without:>7,} problems have completions, {median} in the median; {without:,} have none"


def _source(engine: RecordedEngine, layout: Layout, row: Mapping[str, Any]) -> FilesSource | HubSource:
    """Return the source whose problems are the questions of a recording."""
    answer, gold = _gold(row)
    kept = (layout.question, answer, "source", "difficulty", "domain", "uuid", "id")
    columns = Columns(
        question=layout.question or "question",
        answer=answer or "answer",
        leave_out=tuple(str(name) for name in row if name not in kept),
    )
    common: dict[str, Any] = {"columns": columns, "gold": gold, "unanswered": not answer, "on_duplicate": "drop"}
    if engine.files:
        return FilesSource(kind="files", train=engine.files, **common)
    return HubSource(kind="hub", path=engine.hub, train=engine.split, test="", **common)


def _gold(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the column of the gold answers, and their form; "" if no column is called like one."""
    if answer := next((name for name in _ANSWERS if name in row), ""):
        try:
            return answer, "gsm8k" if "#### " in text_of(row[answer]) else "verbatim"
        except ValueError:
            return answer, "any"  # a list of several
    for name in _SOLUTIONS:
        try:
            if name in row and read_gold(row[name], "boxed").answer:
                return name, "boxed"
        except ValueError:
            continue
    return "", "verbatim"


def _source_block(source: FilesSource | HubSource) -> str:
    columns = {"question": source.columns.question}
    if not source.unanswered:
        columns["answer"] = source.columns.answer
    where = (
        {"train": source.train}
        if isinstance(source, FilesSource)
        else {"path": source.path, "train": source.train, "test": ""}
    )
    lines = [
        "[[sources]]",
        f"kind = {written_value(source.kind)}",
        *(f"{key} = {written_value(value)}" for key, value in where.items()),
    ]
    lines.append(f"columns = {written_value({**columns, 'leave_out': list(source.columns.leave_out)})}")
    if source.gold != "verbatim":
        lines.append(f"gold = {written_value(source.gold)}")
    if source.unanswered:
        lines.append("unanswered = true       # no gold answers were found; checking.majority can stand in for them")
    return "\n".join([*lines, 'on_duplicate = "drop"', ""])


def _teacher_block(engine: RecordedEngine, recordings: Recordings) -> str:
    written = engine.model_dump(exclude_defaults=True) | {"kind": "recorded"}
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(engine.files or engine.hub).name.split(".")[0]).strip("-._")
    length = -(-recordings.longest // _ROUND) * _ROUND
    return "\n".join(
        [
            "[[teachers]]",
            f"name = {written_value(stem or 'recorded')}",
            'model = "WHO-WROTE-THEM"',
            f"engine = {written_value({'kind': 'recorded'} | written)}",
            f"sampling = {{ max_tokens = {length} }}",
        ]
    )
