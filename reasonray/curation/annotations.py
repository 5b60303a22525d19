"""What evaluation drew, arm by arm: narrow columns with behaviours, which are looked for once and then kept.

<run>/evaluation/<arm>/annotations.parquet   a row a rollout: id, round, annotation_*; and by which detectors
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.behaviours import annotate_table
from reasonray.records import content_hash
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, rollout_keys
from reasonray.store.storage import Place

NARROW = (
    "id",
    "resample",
    "problem_id",
    "problem_source",
    "problem_difficulty",
    "teacher",
    "model",
    "fingerprint",
    "sample",
    "completion_tokens",
    "verdict_outcome",
    "verdict_extracted",
    "verdict_checker",
    "verdict_detail",
)
"""What is read of an arm's rollouts: everything but questions, completions and what a checker needs."""
_BATCH = 2000
"""Rollouts that one task annotates."""
_DETECTORS = b"reasonray.detectors"

MapBatches = Callable[[Callable[[pa.Table], pa.Table], Sequence[pa.Table]], list[pa.Table]]
"""Applies a function to every batch, in order: here, or in Ray tasks (sampling.cluster.in_tasks)."""


def one_by_one(function: Callable[[pa.Table], pa.Table], batches: Sequence[pa.Table]) -> list[pa.Table]:
    """Apply a function to one batch after another, in this process."""
    return [function(batch) for batch in batches]


def annotated(ledger: Ledger, map_batches: MapBatches = one_by_one) -> pa.Table:
    """Return an arm's rollouts in NARROW columns with their annotations; behaviours are looked for where they are new.

    Text is read only of rollouts that were not annotated yet, and annotated by Ray where it is much.
    """
    rollouts = ledger.read(NARROW)
    stored = ledger.place / "annotations.parquet"
    known = _known(stored)
    missing = rollouts.filter(pc.is_null(_places(rollouts, known))) if known is not None else rollouts
    if known is None or missing.num_rows:
        found = _annotate(ledger, missing, map_batches)
        known = found if known is None else pa.concat_tables([known, found])
        stored.write_table(known.replace_schema_metadata({_DETECTORS: detectors()}))
    at = _places(rollouts, known)
    for name in known.column_names:
        if name.startswith("annotation_"):
            rollouts = rollouts.append_column(known.schema.field(name), known[name].take(at))
    return rollouts


def drawn(run: Run, arm: str, map_batches: MapBatches = one_by_one) -> pa.Table:
    """Return an arm's rollouts, annotated, without samples beyond those that the configuration asks for."""
    rollouts = annotated(run.evaluation(arm), map_batches)
    return rollouts.filter(pc.less(rollouts["sample"], run.config.evaluation.samples))


@cache
def detectors() -> str:
    """Return the hash of all that decides what an annotation says."""
    room = resources.files("reasonray.curation")
    sources = sorted((it.name, it.read_text(encoding="utf-8")) for it in room.iterdir() if it.name.endswith(".py"))
    return content_hash(*(part for source in sources for part in source))


def _known(stored: Place) -> pa.Table | None:
    """Return the annotations that are stored, None if they are by other detectors."""
    if not stored.exists():
        return None
    table = stored.read_table()
    return table if (table.schema.metadata or {}).get(_DETECTORS) == detectors().encode() else None


def _places(rollouts: pa.Table, known: pa.Table) -> pa.ChunkedArray:
    """Return the row of each rollout's annotation, null where there is none."""
    return pc.index_in(rollout_keys(rollouts), value_set=rollout_keys(known).combine_chunks())


def _annotate(ledger: Ledger, missing: pa.Table, map_batches: MapBatches) -> pa.Table:
    texts = ledger.read(["id", "resample", "completion", "problem_question"])
    texts = texts.filter(pc.is_in(rollout_keys(texts), value_set=rollout_keys(missing).combine_chunks()))
    batches = [texts.slice(start, _BATCH) for start in range(0, texts.num_rows, _BATCH)]
    found = map_batches(_annotations, batches)
    return pa.concat_tables(found) if found else _annotations(texts)


def _annotations(texts: pa.Table) -> pa.Table:
    found = annotate_table(texts)
    names = [name for name in ROLLOUT_SCHEMA.names if name.startswith("annotation_") and name in found.column_names]
    return found.select(["id", "resample", *names])
