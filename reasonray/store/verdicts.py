"""The verdicts of a later verification, stored next to those that rollouts were committed with."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, rollout_keys, set_columns, upgrade
from reasonray.store.storage import Place

_VERDICT_FIELDS = [
    ROLLOUT_SCHEMA.field(f"verdict_{name}") for name in ("outcome", "extracted", "checker", "detail", "seconds")
]
VERIFIED_SCHEMA = pa.schema(
    [
        ROLLOUT_SCHEMA.field("id"),
        ROLLOUT_SCHEMA.field("resample"),
        ROLLOUT_SCHEMA.field("problem_id"),
        pa.field("outcome_before", pa.large_string(), nullable=False),
        *_VERDICT_FIELDS,
        pa.field("rules_outcome", pa.large_string(), nullable=False),
        pa.field("fast_outcome", pa.large_string()),
        pa.field("symbolic_outcome", pa.large_string()),
        pa.field("judge_outcome", pa.large_string()),
        pa.field("judged_for", pa.large_string()),
        pa.field("audited", pa.bool_(), nullable=False),
    ]
)
"""One row per committed rollout; a rollout and its resample have a row each.

outcome_before is the committed outcome. rules_outcome is the outcome of the rules, fast_outcome and symbolic_outcome of
each rule on its own in the audit. judged_for is why the judge was asked: undecided, disagreement or audit; null if it
was not. The verdict_ columns are the outcome of the whole cascade."""


def read_verified(run: Run) -> pa.Table:
    """Return the findings of the last verification, of VERIFIED_SCHEMA; no rows if there was none."""
    manifest = (run.verified / "manifest.json").read_json_or_none()
    if manifest is None:
        return VERIFIED_SCHEMA.empty_table()
    return pa.concat_tables([_read(run.verified / name) for name in manifest["files"]])


def newer_verdicts(run: Run) -> pa.Table:
    """Return the verdicts whose outcome differs from the committed one: id, resample and the verdict's columns."""
    names = ["id", "resample", *(field.name for field in _VERDICT_FIELDS)]
    verified = read_verified(run)
    changed = pc.not_equal(verified["verdict_outcome"], verified["outcome_before"])
    return verified.filter(changed).select(names)


def with_verdicts(rollouts: pa.Table, verdicts: pa.Table) -> pa.Table:
    """Return rollouts with the newer verdicts in place of the committed ones.

    Args:
        rollouts: a table of ROLLOUT_SCHEMA.
        verdicts: a table from newer_verdicts.
    """
    if not verdicts.num_rows:
        return rollouts
    rows = pc.index_in(rollout_keys(rollouts), value_set=rollout_keys(verdicts).combine_chunks())
    newer = {field.name: pc.take(verdicts[field.name].combine_chunks(), rows) for field in _VERDICT_FIELDS}
    return set_columns(
        rollouts,
        {name: pc.if_else(pc.is_valid(rows), values, rollouts[name]) for name, values in newer.items()},
    )


def _read(file: Place) -> pa.Table:
    """Return the verdicts of a file of this version of the schema or an older one."""
    return upgrade(file.read_table()).cast(VERIFIED_SCHEMA)
