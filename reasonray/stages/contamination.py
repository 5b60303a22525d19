"""Which train problems stand among the held-out ones or in benchmark files; on Ray, the index once on every node."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import ray

from reasonray.config import UserError
from reasonray.curation.overlap import CONTAMINATION_SCHEMA, Item, hits, index
from reasonray.curation.words import normalised
from reasonray.problems.files import read_rows
from reasonray.records import Split
from reasonray.run import Run

_CHUNK = 5000
_TEXTS = ("question", "problem", "text", "prompt")
HELD_OUT = "held out"


def held_out_items(run: Run) -> list[Item]:
    """Return what must not be trained on: a run's test problems, and the items of its benchmark files.

    Raises:
        UserError: a benchmark file is not there, or has no column of text.
    """
    items = [Item(HELD_OUT, it.id, it.question) for it in run.problems(Split.TEST)]
    for pattern in run.config.curation.benchmarks:
        items += _benchmark(pattern)
    return items


def contamination(run: Run, items: Sequence[Item]) -> pa.Table:
    """Return the overlaps of a run's train problems with held-out items (overlap.CONTAMINATION_SCHEMA)."""
    asked = [(it.id, it.question) for it in run.problems(Split.TRAIN)]
    lengths = {len(normalised(text)) for _, text in asked}
    held_out = ray.put(index(items, run.config.curation.ngrams, lengths))
    chunks = [asked[start : start + _CHUNK] for start in range(0, len(asked), _CHUNK)]
    look = ray.remote(hits).options(num_cpus=1)
    tables = ray.get([look.remote(held_out, chunk) for chunk in chunks])
    return pa.concat_tables([CONTAMINATION_SCHEMA.empty_table(), *tables])


def _benchmark(pattern: str) -> Iterator[Item]:
    for where, row in read_rows(pattern, "curation.benchmarks"):
        yield Item(pattern, str(row.get("id", where)), _text(row, where))


def _text(row: Mapping[str, Any], where: str) -> str:
    for name in _TEXTS:
        if isinstance(row.get(name), str):
            return str(row[name])
    raise UserError(f"{where}: none of the columns {', '.join(_TEXTS)} holds a text; there are {', '.join(row)}")
