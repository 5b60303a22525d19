"""Rollouts of the models under evaluation with their annotations, which are computed once and stored.

<run>/evaluation/<arm>/annotations.parquet   id, resample, annotation_*; the detectors' version
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.curation.behaviours import DETECTORS_VERSION, annotate_table
from reasonray.store.ledger import Ledger
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, rollout_keys
from reasonray.store.storage import Place

EVALUATION_COLUMNS = (
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
"""Columns that are read of an arm's rollouts: everything but questions, completions and a checker's inputs."""
_BATCH = 2000
"""Rollouts that one task annotates."""
_VERSION_KEY = b"reasonray.detectors"

MapBatches = Callable[[Callable[[pa.Table], pa.Table], Sequence[pa.Table]], list[pa.Table]]
"""Applies a function to every batch, in order: in this process, or in Ray tasks (sampling.cluster.in_tasks)."""


def one_by_one(function: Callable[[pa.Table], pa.Table], batches: Sequence[pa.Table]) -> list[pa.Table]:
    """Apply a function to one batch after another, in this process."""
    return [function(batch) for batch in batches]


def evaluation_rollouts(run: Run, arm: str, map_batches: MapBatches = one_by_one) -> pa.Table:
    """Return an arm's rollouts, annotated, without samples beyond those that the configuration asks for."""
    rollouts = annotated(run.evaluation(arm), map_batches)
    return rollouts.filter(pc.less(rollouts["sample"], run.config.evaluation.samples))


def annotated(ledger: Ledger, map_batches: MapBatches = one_by_one) -> pa.Table:
    """Return a ledger's rollouts in EVALUATION_COLUMNS with their annotations.

    Texts are read and annotated only of the rollouts that have no stored annotation of this version of the detectors.

    Args:
        ledger: of an arm.
        map_batches: applies the detectors to batches of texts.
    """
    rollouts = ledger.read(EVALUATION_COLUMNS)
    stored = ledger.place / "annotations.parquet"
    known = _stored_annotations(stored)
    missing = rollouts.filter(pc.is_null(_annotation_rows(rollouts, known))) if known is not None else rollouts
    if known is None or missing.num_rows:
        new = _annotate(ledger, missing, map_batches)
        known = new if known is None else pa.concat_tables([known, new], promote_options="permissive")
        stored.write_table(known.replace_schema_metadata({_VERSION_KEY: DETECTORS_VERSION}))
    rows = _annotation_rows(rollouts, known)
    for name in known.column_names:
        if name.startswith("annotation_"):
            rollouts = rollouts.append_column(known.schema.field(name), known[name].take(rows))
    return rollouts


def _stored_annotations(stored: Place) -> pa.Table | None:
    """Return the stored annotations, None if there are none or another version of the detectors made them."""
    if not stored.exists():
        return None
    table = stored.read_table()
    return table if (table.schema.metadata or {}).get(_VERSION_KEY) == DETECTORS_VERSION.encode() else None


def _annotation_rows(rollouts: pa.Table, known: pa.Table) -> pa.ChunkedArray:
    """Return the row of each rollout's annotation, null where there is none."""
    return pc.index_in(rollout_keys(rollouts), value_set=rollout_keys(known).combine_chunks())


def _annotate(ledger: Ledger, missing: pa.Table, map_batches: MapBatches) -> pa.Table:
    texts = ledger.read(["id", "resample", "opening", "completion", "problem_question"])
    texts = texts.filter(pc.is_in(rollout_keys(texts), value_set=rollout_keys(missing).combine_chunks()))
    batches = [texts.slice(start, _BATCH) for start in range(0, texts.num_rows, _BATCH)]
    tables = map_batches(_annotations, batches)
    return pa.concat_tables(tables) if tables else _annotations(texts)


def _annotations(texts: pa.Table) -> pa.Table:
    table = annotate_table(texts)
    names = [name for name in ROLLOUT_SCHEMA.names if name.startswith("annotation_") and name in table.column_names]
    return table.select(["id", "resample", *names])
