"""Agreement of the lexical behaviour detectors with a language model, on a sample of the curated rollouts.

The model's labels are sampled like solutions. The agreement is Cohen's kappa (Cohen, "A coefficient of agreement for
nominal scales", 1960), which is 0 where two labellers agree no more often than by chance.

    <run>/labels/            the labeller's questions and replies: a ledger
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
from reasonray.sampling.work import SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.schema import read_rollouts


def label(run: Run, pool: ReplicaPool | None = None) -> None:
    """Have the configuration's labeller label its sample, and write the agreement. Without a labeller, do nothing.

    Args:
        run: the run.
        pool: provides the labeller's replicas; None for a pool of the stage's own.

    Raises:
        UserError: nothing has been curated yet.
    """
    labeller = run.config.curation.labeller
    if labeller is None:
        return
    rows = _sample(run, run.config.curation.labelled)
    questions = {row["id"]: labels.question(split_reasoning(row["opening"] + row["completion"])[0]) for row in rows}
    distinct = list({problem.id: problem for problem in questions.values()}.values())
    job = SamplingJob.of(run, "labeller", labeller, distinct, Fixed(samples=1), run.labels)
    with pool_for(run, pool) as replicas:
        run_jobs(run, "label", [job], replicas)
    replies = run.labels.read(["problem_id", "verdict_outcome", "verdict_extracted", "model"])
    labels_of = {
        reply["problem_id"]: labels.read(reply["verdict_extracted"])
        for reply in replies.to_pylist()
        if reply["verdict_outcome"] == Outcome.CORRECT.value and reply["model"] == labeller.model
    }
    pairs = [(row, labels_of[questions[row["id"]].id]) for row in rows if questions[row["id"]].id in labels_of]
    document: dict[str, Any] = {
        "model": labeller.model,
        "asked": len(rows),
        "labelled": len(pairs),
        "kappa": _agreement(pairs),
    }
    (run.place / "labels.json").write(json.dumps(document, indent=2).encode())
    means = {name: behaviour["mean"] for name, behaviour in document["kappa"].items() if behaviour["mean"] is not None}
    listed = "   ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    log_line("label", f"{len(pairs):>7,} of {len(rows):,} labelled   kappa: {listed or 'none'}")


def _agreement(pairs: list[tuple[dict[str, Any], dict[str, bool]]]) -> dict[str, Any]:
    """Return behaviour → kappa and the number of rollouts with it, by the detectors and by the model.

    Args:
        pairs: of each labelled rollout its row with annotations, and the model's labels.
    """
    behaviours = {}
    for name in BEHAVIOURS:
        both = [(row[f"annotation_{name}"] > 0, model_labels[name]) for row, model_labels in pairs]
        interval = kappa(both)
        counts = {"lexical": sum(lexical for lexical, _ in both), "model": sum(model for _, model in both)}
        behaviours[name] = (asdict(interval) if interval else {"mean": None}) | counts
    return behaviours


def _sample(run: Run, size: int) -> list[dict[str, Any]]:
    """Return the rollouts whose hashed ids are lowest, so that a larger sample contains a smaller one."""
    files = run.curated_rollouts()
    if files is None:
        raise UserError(f"run {run.name} has nothing curated to label; run jobs/curate.py first")
    ids = pa.concat_tables([read_rollouts(file, ["id"]) for file in files])["id"].to_pylist()
    chosen = pa.array(sorted(ids, key=lambda rollout_id: content_hash("label", rollout_id))[:size], pa.large_string())
    columns = ["id", "opening", "completion", *(f"annotation_{name}" for name in BEHAVIOURS)]
    tables = (read_rollouts(file, columns) for file in files)
    return [row for table in tables for row in table.filter(pc.is_in(table["id"], value_set=chosen)).to_pylist()]
