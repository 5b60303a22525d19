"""Rollouts → verdicts, again: judge what is stored with the checkers as they are now. Nothing is drawn.

The old verdicts stay where they are; the new ones are written beside them, with the old outcome in every row.

    <run>/verified/<name>.parquet, <run>/verified/manifest.json (written last)
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, UserError
from reasonray.console import say
from reasonray.records import Finish, Verdict, content_hash
from reasonray.run import Run
from reasonray.storage import Place
from reasonray.tables import ROLLOUT_SCHEMA, table_to_rollouts

VERIFIED_SCHEMA = pa.schema(
    [
        ROLLOUT_SCHEMA.field("id"),
        pa.field("outcome_before", pa.string(), nullable=False),
        *(ROLLOUT_SCHEMA.field(f"verdict_{name}") for name in ("outcome", "extracted", "checker", "detail", "seconds")),
    ]
)


class Verifier:
    """Judges batches of rollouts in a Ray Data actor and writes each as one file."""

    def __init__(self, checking: Checking, target: Place) -> None:
        self._pool = CheckerPool(processes=checking.processes, timeout_seconds=checking.timeout_seconds)
        self._target = target

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one row that names the file and counts (outcome before, outcome now) pairs."""
        rollouts = table_to_rollouts(batch.cast(ROLLOUT_SCHEMA))
        judged = [
            self._pool.submit(it.problem, it.completion, it.finish) if it.finish is not Finish.ERROR else None
            for it in rollouts
        ]
        verdicts = [future.result() if future else it.verdict for it, future in zip(rollouts, judged, strict=True)]
        pairs = list(zip(rollouts, verdicts, strict=True))
        rows = [_row(it.id, it.verdict, verdict) for it, verdict in pairs]
        name = f"{content_hash(*(it.id for it in rollouts))}.parquet"
        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=VERIFIED_SCHEMA), sink, compression="zstd")
        (self._target / name).write(sink.getvalue())
        counts = Counter(f"{it.verdict.outcome.value}>{verdict.outcome.value}" for it, verdict in pairs)
        return pa.table({"file": [name], "rows": [len(rows)], "counts": [json.dumps(counts)]})


def verify(run: Run) -> dict[str, int]:
    """Judge every committed rollout again; return how many went from which outcome to which (`wrong>correct`).

    Raises:
        UserError: the run holds no rollouts.
    """
    segments = run.rollouts.segments()
    if not segments:
        raise UserError(f"run {run.name} holds no rollouts to verify; run jobs/sample.py first")
    target = run.place / "verified"
    target.delete()
    dataset = ray.data.read_parquet(
        [segment.path for segment in segments], filesystem=segments[0].filesystem, override_num_blocks=len(segments)
    )
    parts = dataset.map_batches(
        Verifier,
        fn_constructor_args=(run.config.checking, target),
        batch_format="pyarrow",
        batch_size=1000,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=4),
    ).take_all()
    return _settle(run, target, parts)


def _settle(run: Run, target: Place, parts: list[dict[str, Any]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(json.loads(part["counts"]))
    document = {"files": sorted(part["file"] for part in parts), "rows": sum(part["rows"] for part in parts)}
    (target / "manifest.json").write(json.dumps(document | {"counts": counts}, indent=2, sort_keys=True).encode())
    changed = {pair: count for pair, count in counts.items() if len(set(pair.split(">"))) == 2}
    say("verify", f"{document['rows']:>7,} rollouts judged again   {sum(changed.values()):,} verdicts changed")
    for pair, count in sorted(changed.items(), key=lambda item: -item[1]):
        say("verify", f"{count:>7,} {pair.replace('>', ' → ')}")
    run.events.emit("verify", rows=document["rows"], counts=counts)
    return dict(counts)


def _row(identifier: str, before: Verdict, now: Verdict) -> dict[str, Any]:
    return {
        "id": identifier,
        "outcome_before": before.outcome.value,
        "verdict_outcome": now.outcome.value,
        "verdict_extracted": now.extracted,
        "verdict_checker": now.checker,
        "verdict_detail": now.detail,
        "verdict_seconds": now.seconds,
    }
