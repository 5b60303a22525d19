"""The producer of metrics.json: a run's rollouts and the figures of its stages, summarised as `metrics.Metrics`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from math import isfinite
from statistics import median

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.comparisons import clusters_of, compare_arms, compare_checkpoints, pair_name, pairs
from reasonray.analysis.estimators import wilson
from reasonray.analysis.funnel import Trained, count_funnel
from reasonray.analysis.metrics import (
    Cost,
    CostMetrics,
    GoldAudit,
    GoldSuspect,
    LabelMetrics,
    Metrics,
    ParaphraseMetrics,
    Provenance,
    SamplingMetrics,
    SliceAcceptance,
    Spent,
    TeacherMetrics,
    TrainingMetrics,
    Unfinished,
    VerdictMetrics,
    Verification,
)
from reasonray.analysis.reasoning_stats import behaviour_difference, behaviours, by_pass_rate
from reasonray.analysis.scores import acceptance, difficulties, k_curve
from reasonray.checkers.consensus import Suspect
from reasonray.config import Config
from reasonray.records import Outcome, Problem

_LISTED_SUSPECTS = 20
COLUMNS = (
    "problem_id",
    "problem_difficulty",
    "teacher",
    "model",
    "verdict_outcome",
    "verdict_extracted",
    "verdict_checker",
    "completion_tokens",
    "annotation_verification",
    "annotation_backtracking",
    "annotation_subgoals",
    "annotation_backward_chaining",
    "annotation_num_steps",
    "annotation_dropped_by",
    "annotation_selected",
)
"""The columns that are read of a rollout: no text, so that a million rollouts fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsInputs:
    """All that metrics.json is made from. A stage that has not run yet has an empty value."""

    config: Config
    versions: Mapping[str, str]
    """Versions of the packages that decide results (run.versions)."""
    problems: int
    """Train problems, including those without a rollout."""
    sampled: pa.Table
    """The teachers' rollouts of the train problems, annotated once curation has run; COLUMNS suffice."""
    sampling_seconds: float | None = None
    """Wall time of sampling, over all its sessions."""
    cost: Cost | None = None
    trained: Trained | None = None
    training: Sequence[Mapping[str, float]] = ()
    """One row for each step: step, loss, learning_rate, gradient_norm, tokens_per_second."""
    arms: Mapping[str, pa.Table] = field(default_factory=dict)
    """Rollouts of the test problems by arm, "base" and "student" among them; annotated, to have behaviours."""
    test: Sequence[Problem] | None = None
    """The problems that each arm must have; a missing one would shrink the denominator unnoticed."""
    checkpoints: Mapping[int, pa.Table] = field(default_factory=dict)
    """Rollouts of test problems by training step, 0 being the base."""
    verification: Verification | None = None
    labels: LabelMetrics | None = None
    paraphrases: ParaphraseMetrics | None = None
    suspects: Sequence[Suspect] = ()
    """Problems whose gold answers may be wrong, the clearest first (checkers.consensus)."""
    audited_problems: int = 0
    """Problems that were looked at for suspects."""
    stages: Mapping[str, float] = field(default_factory=dict)
    """Seconds that each stage took."""
    provenance: Provenance | None = None
    unfinished: Mapping[str, Unfinished] = field(default_factory=dict)
    """The arms that are left out."""
    spent: Sequence[Spent] = ()
    """What rollouts cost, of models with a price."""


def summarise(inputs: MetricsInputs) -> Metrics:
    """Return the metrics of a run. What has not run yet is empty, not an error.

    Raises:
        ValueError: a sum of the funnel does not balance, or problems or sample counts of arms do not match.
    """
    config, sampled, arms = inputs.config, inputs.sampled, inputs.arms
    clusters = clusters_of(inputs.test or (), config.evaluation.cluster)
    comparison = compare_arms(arms, sorted({1, *config.evaluation.k}), inputs.test, clusters)
    return Metrics(
        funnel=count_funnel(sampled, inputs.problems, inputs.trained),
        sampling=_sampling(inputs),
        training=_training(inputs.training),
        evaluation=comparison.evaluation,
        difference=comparison.difference,
        sets=comparison.sets,
        behaviours={arm: behaviours(rollouts, clusters) for arm, rollouts in arms.items()},
        behaviour_difference={
            pair_name(before, after): behaviour_difference(arms[before], arms[after], clusters)
            for before, after in pairs(list(arms))
        },
        by_pass_rate=by_pass_rate(sampled),
        k_curve=k_curve(sampled, config.curation.keep_per_problem) if config.policy.kind == "fixed" else (),
        checkpoints=compare_checkpoints(inputs.checkpoints, clusters),
        labels=inputs.labels,
        paraphrases=inputs.paraphrases,
        verdicts=_verdicts(inputs),
        stages=inputs.stages,
        provenance=inputs.provenance or Provenance(seed=config.seed),
        unfinished=inputs.unfinished,
        versions=inputs.versions,
        config_sha256=config.sha256(),
        spent=tuple(inputs.spent) or None,
    )


def _sampling(inputs: MetricsInputs) -> SamplingMetrics:
    sampled, seconds = inputs.sampled, inputs.sampling_seconds
    tokens = int(pc.sum(sampled["completion_tokens"]).as_py() or 0)
    correct = pc.equal(sampled["verdict_outcome"], Outcome.CORRECT.value)
    covered = pc.count_distinct(sampled["problem_id"].filter(correct)).as_py()
    overall = acceptance(sampled) if sampled.num_rows else None
    parts = {name: sampled.filter(pc.equal(sampled["problem_difficulty"], name)) for name in difficulties(sampled)}
    return SamplingMetrics(
        generated_tokens=tokens,
        seconds=seconds,
        tokens_per_second=tokens / seconds if seconds else None,
        by_difficulty={name: SliceAcceptance(acceptance=acceptance(part)) for name, part in parts.items()},
        behaviours=behaviours(sampled),
        acceptance_rate=overall.mean if overall else None,
        problems_covered=covered,
        acceptance=overall,
        coverage=wilson(covered, inputs.problems) if overall else None,
        by_teacher=_by_teacher(sampled),
        cost=_cost(inputs.cost, pc.sum(correct).as_py() or 0) if inputs.cost else None,
    )


def _by_teacher(sampled: pa.Table) -> dict[str, TeacherMetrics]:
    parts = {
        teacher: sampled.filter(pc.equal(sampled["teacher"], teacher))
        for teacher in sorted(pc.unique(sampled["teacher"]).to_pylist())
    }
    return {
        teacher: TeacherMetrics(
            rollouts=part.num_rows, acceptance=acceptance(part), tokens=pc.sum(part["completion_tokens"]).as_py()
        )
        for teacher, part in parts.items()
    }


def _cost(cost: Cost, correct: int) -> CostMetrics:
    return CostMetrics(
        **asdict(cost),
        tokens_per_correct=cost.generated_tokens / correct if correct else None,
        accelerator_seconds_per_correct=cost.accelerator_seconds / correct if correct else None,
        idle_fraction=cost.idle_seconds / cost.replica_seconds if cost.replica_seconds else None,
    )


def _verdicts(inputs: MetricsInputs) -> VerdictMetrics:
    counted = sorted(inputs.sampled["verdict_checker"].value_counts().to_pylist(), key=lambda entry: -entry["counts"])
    checkers = {entry["values"]: entry["counts"] for entry in counted}
    verification = inputs.verification
    return VerdictMetrics(
        checkers=checkers,
        unsandboxed=inputs.config.checking.unsandboxed and bool({"program", "gym"} & checkers.keys()),
        judge=verification.judge if verification else None,
        controls=verification.controls if verification else None,
        agreement=verification.agreement if verification else None,
        gold_audit=GoldAudit(
            looked_at=inputs.audited_problems,
            suspected=len(inputs.suspects),
            suspects=tuple(_gold_suspect(suspect) for suspect in inputs.suspects[:_LISTED_SUSPECTS]),
        ),
    )


def _gold_suspect(suspect: Suspect) -> GoldSuspect:
    return GoldSuspect(
        problem_id=suspect.problem.id,
        question=suspect.problem.question[:300],
        answer=suspect.problem.answer,
        majority=suspect.majority.answer[:120],
        votes=suspect.majority.votes,
        answers=suspect.majority.num_answers,
    )


def _training(rows: Sequence[Mapping[str, float]]) -> TrainingMetrics:
    non_finite = next((int(row["step"]) for row in rows if not isfinite(row["loss"])), None)
    return TrainingMetrics(
        steps=len(rows),
        first_loss=rows[0]["loss"] if rows else None,
        last_loss=rows[-1]["loss"] if rows else None,
        tokens_per_second=median(row["tokens_per_second"] for row in rows) if rows else None,
        non_finite_step=non_finite,
        curve=tuple(rows),
    )
