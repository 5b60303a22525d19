"""How far do the lexical detectors agree with a language model on which behaviours a reasoning shows?

A sample of the curated rollouts is labelled by a model, through the machinery that draws rollouts; the agreement is
Cohen's kappa (Cohen, "A coefficient of agreement for nominal scales", 1960), which is 0 where two labellers agree no
more than chance would have them.

    <run>/labels/            what the labeller was asked and said: a ledger
    <run>/labels.json        kappa by behaviour
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.estimators import kappa
from reasonray.checkers import labels
from reasonray.config import Fixed, UserError
from reasonray.prompts import split_reasoning
from reasonray.records import BEHAVIOURS, Outcome, content_hash
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import EngineSpec, SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.schema import read_rollouts


def label(run: Run, pool: ReplicaPool | None = None) -> None:
    """Have the labeller of the configuration, if there is one, label its sample, and compare.

    Args:
        run: the run.
        pool: provides the labeller's replicas; None for a pool of the stage's own.

    Raises:
        UserError: nothing has been curated yet.
    """
    labeller = run.config.curation.labeller
    if labeller is None:
        return
    sampled = _sample(run, run.config.curation.labelled)
    problems = {it["id"]: labels.question(split_reasoning(it["completion"])[0]) for it in sampled}
    asked = list({problem.id: problem for problem in problems.values()}.values())
    spec, policy = EngineSpec.of(run, labeller), Fixed(samples=1)
    job = SamplingJob(
        "labeller", asked, labeller.prompt, labeller.sampling, policy, run.labels, spec, labeller.replica_bounds
    )
    with pool_for(run, pool) as replicas:
        run_jobs(run, "label", [job], replicas)
    said = run.labels.read(["problem_id", "verdict_outcome", "verdict_extracted", "model"])
    found = {
        it["problem_id"]: labels.read(it["verdict_extracted"])
        for it in said.to_pylist()
        if it["verdict_outcome"] == Outcome.CORRECT.value and it["model"] == labeller.model
    }
    pairs = [(it, found[problems[it["id"]].id]) for it in sampled if problems[it["id"]].id in found]
    document: dict[str, Any] = {
        "model": labeller.model,
        "asked": len(sampled),
        "labelled": len(pairs),
        "kappa": _agreement(pairs),
    }
    (run.place / "labels.json").write(json.dumps(document, indent=2).encode())
    known = {name: it["mean"] for name, it in document["kappa"].items() if it["mean"] is not None}
    told = "   ".join(f"{name} {mean:.2f}" for name, mean in known.items())
    log_line("label", f"{len(pairs):>7,} of {len(sampled):,} labelled   kappa: {told or 'none'}")


def _agreement(pairs: list[tuple[dict[str, Any], dict[str, bool]]]) -> dict[str, Any]:
    found = {}
    for name in BEHAVIOURS:
        both = [(row[f"annotation_{name}"] > 0, said[name]) for row, said in pairs]
        interval = kappa(both)
        counts = {"lexical": sum(one for one, _ in both), "model": sum(other for _, other in both)}
        found[name] = (asdict(interval) if interval else {"mean": None}) | counts
    return found


def _sample(run: Run, size: int) -> list[dict[str, Any]]:
    """Return the rollouts whose hashed ids are lowest: a larger sample holds a smaller one."""
    files = run.curated_rollouts()
    if files is None:
        raise UserError(f"run {run.name} has nothing curated to label; run jobs/curate.py first")
    ids = pa.concat_tables([read_rollouts(file, ["id"]) for file in files])["id"].to_pylist()
    chosen = pa.array(sorted(ids, key=lambda it: content_hash("label", it))[:size], pa.string())
    columns = ["id", "completion", *(f"annotation_{name}" for name in BEHAVIOURS)]
    tables = (read_rollouts(file, columns) for file in files)
    return [row for table in tables for row in table.filter(pc.is_in(table["id"], value_set=chosen)).to_pylist()]
