"""What evaluation drew, arm by arm: narrow columns with behaviours, which are looked for once and then kept.

<run>/evaluation/<arm>/annotations.parquet   a row a rollout: id, round, annotation_*; and by which detectors
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from reasonray.comparison import BASE, STUDENT
from reasonray.curation.behaviours import annotate_table
from reasonray.ledger import Ledger
from reasonray.records import Split, content_hash
from reasonray.run import Run
from reasonray.storage import Place
from reasonray.tables import ROLLOUT_SCHEMA, keys

NARROW = (
    "id",
    "round",
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


def annotated(ledger: Ledger) -> pa.Table:
    """Return an arm's rollouts in NARROW columns with their annotations; behaviours are looked for where they are new.

    Text is read only of rollouts that were not annotated yet, and annotated by Ray where it is much.
    """
    rollouts = ledger.read(NARROW)
    stored = ledger.place / "annotations.parquet"
    known = _known(stored)
    missing = rollouts.filter(pc.is_null(_places(rollouts, known))) if known is not None else rollouts
    if known is None or missing.num_rows:
        found = _annotate(ledger, missing)
        known = found if known is None else pa.concat_tables([known, found])
        stored.write_table(known.replace_schema_metadata({_DETECTORS: detectors()}))
    at = _places(rollouts, known)
    for name in known.column_names:
        if name.startswith("annotation_"):
            rollouts = rollouts.append_column(known.schema.field(name), known[name].take(at))
    return rollouts


def measured(run: Run) -> list[str]:
    """Return the arms that hold rollouts, in the order in which people read them."""
    further = (*run.config.teachers, *run.config.evaluation.arms)
    names = [BASE, *(it.name for it in further), STUDENT]
    return [name for name in names if run.evaluation(name).segments()]


def drawn(run: Run, arm: str) -> pa.Table:
    """Return an arm's rollouts, annotated, without samples beyond those that the configuration asks for."""
    rollouts = annotated(run.evaluation(arm))
    return rollouts.filter(pc.less(rollouts["sample"], run.config.evaluation.samples))


def missing(run: Run, rollouts: pa.Table) -> dict[str, int] | None:
    """Return how many samples of an arm are drawn, of how many; None where it is measured whole."""
    problems, samples = len(run.problems(Split.TEST)), run.config.evaluation.samples
    each = rollouts["problem_id"].value_counts().field("counts")
    if len(each) == problems and pc.min(each).as_py() == samples:
        return None
    return {"samples": rollouts.num_rows, "of": problems * samples}


def measured_checkpoints(run: Run) -> list[str]:
    """Return the arms of the checkpoints that hold rollouts, in order of training steps."""
    return [it.name for it in run.checkpoints() if run.evaluation(it.name).segments()]


def step_of(checkpoint: str) -> int:
    """Return the training step of a checkpoint."""
    return int(checkpoint.removeprefix("step-"))


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
    return pc.index_in(keys(rollouts), value_set=keys(known).combine_chunks())


def _annotate(ledger: Ledger, missing: pa.Table) -> pa.Table:
    texts = ledger.read(["id", "round", "completion", "problem_question"])
    texts = texts.filter(pc.is_in(keys(texts), value_set=keys(missing).combine_chunks()))
    batches = [texts.slice(start, _BATCH) for start in range(0, texts.num_rows, _BATCH)]
    if len(batches) < 2 or not ray.is_initialized():
        found = [_annotations(batch) for batch in batches]
    else:
        task: Any = ray.remote(num_cpus=1)(_annotations)
        found = ray.get([task.remote(batch) for batch in batches])
    return pa.concat_tables(found) if found else _annotations(texts)


def _annotations(texts: pa.Table) -> pa.Table:
    found = annotate_table(texts)
    names = [name for name in ROLLOUT_SCHEMA.names if name.startswith("annotation_") and name in found.column_names]
    return found.select(["id", "round", *names])
