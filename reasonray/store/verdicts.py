"""The verdicts of a later verification, stored next to those that rollouts were committed with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, rollout_keys, set_columns, upgrade
from reasonray.store.storage import Place

_VERDICT = [ROLLOUT_SCHEMA.field(f"verdict_{it}") for it in ("outcome", "extracted", "checker", "detail", "seconds")]
VERIFIED_SCHEMA = pa.schema(
    [
        ROLLOUT_SCHEMA.field("id"),
        ROLLOUT_SCHEMA.field("resample"),
        ROLLOUT_SCHEMA.field("problem_id"),
        pa.field("outcome_before", pa.string(), nullable=False),
        *_VERDICT,
        pa.field("rules_outcome", pa.string(), nullable=False),
        pa.field("fast_outcome", pa.string()),
        pa.field("symbolic_outcome", pa.string()),
        pa.field("judge_outcome", pa.string()),
        pa.field("judged_for", pa.string()),
        pa.field("audited", pa.bool_(), nullable=False),
    ]
)
"""One row for each time that a rollout was drawn.

judged_for: undecided, disagreement or audit; null where the judge had no part."""


def newer_verdicts(run: Run) -> pa.Table:
    """Return the verdicts that differ from those of the commits: id, round, and the verdict's columns."""
    names = ["id", "resample", *(field.name for field in _VERDICT)]
    manifest = (run.verified / "manifest.json").read_json_or_none()
    if manifest is None:
        return pa.schema([VERIFIED_SCHEMA.field(name) for name in names]).empty_table()
    verified = pa.concat_tables([_read(run.verified / name) for name in manifest["files"]])
    changed = pc.not_equal(verified["verdict_outcome"], verified["outcome_before"])
    return verified.filter(changed).select(names)


def _read(file: Place) -> pa.Table:
    """Return the verdicts of a file of this version of the schema or an older one."""
    return upgrade(file.read_table()).cast(VERIFIED_SCHEMA)


def with_verdicts(rollouts: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return rollouts with the newer verdicts in place of those that they were committed with."""
    if not verdicts.num_rows:
        return rollouts
    place = pc.index_in(rollout_keys(rollouts), value_set=rollout_keys(verdicts).combine_chunks())
    newer = {field.name: pc.take(verdicts[field.name].combine_chunks(), place) for field in _VERDICT}
    return set_columns(
        rollouts,
        {name: pc.if_else(pc.is_valid(place), values, rollouts[name]) for name, values in newer.items()},
    )
