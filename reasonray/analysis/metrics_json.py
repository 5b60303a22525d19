"""metrics.json: every number of a run in one plain dictionary, the only source of report.html's figures and words.

Shape (an interval is {mean, low, high}; null is what cannot be known, such as a loss that is not finite):

    funnel        counts, tokens and shares from problems to trained tokens (funnel.Funnel)
    sampling      acceptance_rate, problems_covered, generated_tokens, seconds, tokens_per_second, by_teacher, …;
                  cost: tokens_per_correct (aborted attempts' tokens included), accelerator_seconds_per_correct,
                  idle_fraction of the replicas, deaths
    training      steps, first_loss, last_loss, tokens_per_second, non_finite_step; curve: [{step, loss, learning_rate,
                  gradient_norm, tokens_per_second, …}], a row a step
    evaluation    <arm> → all | <difficulty> → pass@k, maj@k, outcome rates (rates: with
                  intervals), completion_tokens, problems, samples
    difference    "<after>-<before>", any two arms → all | <difficulty> → mean, low, high, problems, gained, lost,
                  transitions, p, advice; power: between, within, within_share, detectable, … (estimators.Power)
    sets          <source> → evaluation, difference: as above, of all of its problems; empty for a single source
    behaviours    <arm> → verification, backtracking, …, depth; by_difficulty; correct; not_correct
    behaviour_difference  "<after>-<before>", any two arms → verification, backtracking, subgoals, backward_chaining
                  (points), depth, completion_tokens; paired by problem
    by_pass_rate  [{above, up_to, problems, responses, verification, …, depth, completion_tokens}] of train rollouts
    k_curve       [{k, acceptance, coverage, kept, tokens_per_kept}]
    checkpoints   [{step, arm, pass@1, verification, backtracking, depth, completion_tokens, problems, samples;
                  correct, not_correct; by_difficulty; difference: to step 0, with p_holm}]
    verdicts      checkers: <checker> → rollouts whose verdict it gave; judge, unsandboxed, controls, agreement
                  (stages/verify.agreement); gold_audit: looked_at, suspected, suspects [{question, majority, …}]
    labels        model, asked, labelled, kappa: <behaviour> → mean, low, high, lexical, model; null if none were
    stages        <stage> → seconds
    provenance    seed; models: reference → hash of its weights; data: hash of the examples trained on; machines: of the
                  jobs; accelerator_hours: <stage> → hours of replicas and training's workers, times their GPUs where
                  they have some
    unfinished    <arm> that is left out → samples drawn, of how many
    versions, config_sha256
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.comparisons import clusters_of, evaluation, over_training, pair_name, pairs
from reasonray.analysis.estimators import wilson
from reasonray.analysis.funnel import Trained, count_funnel
from reasonray.analysis.reasoning_stats import behaviour_difference, behaviours, by_pass_rate
from reasonray.analysis.scores import Clusters, acceptance, difficulties, k_curve
from reasonray.checkers.consensus import Suspect
from reasonray.config import Config
from reasonray.records import Outcome, Problem

_SHOWN_SUSPECTS = 20
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
"""All that is read of a rollout here: no text, so that a million rollouts fit into memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What sampling took, over all its sessions."""

    generated_tokens: int
    """Those of aborted attempts included."""
    accelerator_seconds: float
    idle_seconds: float
    """Of replicas, with nothing in flight."""
    replica_seconds: float
    deaths: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What is known of how good a run's verdicts and annotations are."""

    verified: Mapping[str, Any] | None = None
    """What the manifest of a verification says."""
    labels: Mapping[str, Any] | None = None
    """How far a model's labels of behaviours agree with the detectors'."""
    suspects: Sequence[Suspect] = ()
    """Problems whose gold answers may be wrong (checkers.consensus)."""
    looked_at: int = 0
    """Problems that were looked at for that."""


def summarise(
    *,
    config: Config,
    versions: Mapping[str, str],
    problems: int,
    sampled: pa.Table,
    sampling_seconds: float | None = None,
    cost: Cost | None = None,
    trained: Trained | None = None,
    training: Sequence[Mapping[str, float]] = (),
    arms: Mapping[str, pa.Table] | None = None,
    test: Sequence[Problem] | None = None,
    checkpoints: Mapping[int, pa.Table] | None = None,
    trust: Trust | None = None,
    stages: Mapping[str, float] | None = None,
    provenance: Mapping[str, Any] | None = None,
    unfinished: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the metrics of a run as plain values that JSON can hold. What has not run yet is empty, not an error.

    Args:
        config: the run's.
        versions: of what decides results (run.versions).
        problems: train problems, with those that no rollout was drawn for.
        sampled: the teachers' rollouts of the train problems, annotated once curation has run; COLUMNS suffice.
        sampling_seconds: wall time that sampling took, over all its resumes.
        cost: what it took beside time.
        trained: what training reports of its data, once it has run.
        training: one row a step: step, loss, learning_rate, gradient_norm, tokens_per_second.
        arms: the rollouts of the test problems by arm, "base" and "student" among them; annotated, to have behaviours.
        test: the problems that each arm must have; a missing one would shrink the denominator unseen.
        checkpoints: the rollouts of test problems by training step, 0 being the base.
        trust: what is known of how good verdicts and annotations are.
        stages: seconds that each stage took.
        provenance: what else decided the figures: seed, models, data, machines, accelerator_hours.
        unfinished: of arms that are left out, how many samples are drawn of how many.

    Raises:
        ValueError: a sum of the funnel does not balance, or problems or sample counts of arms do not match.
    """
    arms = arms or {}
    clusters = clusters_of(test or (), config.evaluation.cluster)
    metrics: dict[str, Any] = {
        "funnel": asdict(count_funnel(sampled, problems, trained)),
        "sampling": _sampling(sampled, problems, sampling_seconds) | _cost(cost, sampled),
        "training": _training(training),
        **evaluation(arms, sorted({1, *config.evaluation.k}), test, clusters),
        "behaviours": {arm: behaviours(rollouts, clusters) for arm, rollouts in arms.items()},
        "behaviour_difference": _behaviour_differences(arms, clusters),
        "by_pass_rate": by_pass_rate(sampled),
        "k_curve": k_curve(sampled, config.curation.keep_per_problem) if config.policy.kind == "fixed" else [],
        "checkpoints": over_training(checkpoints or {}, clusters),
        "labels": trust.labels if trust else None,
        "verdicts": _verdicts(config, sampled, trust or Trust()),
        "stages": dict(stages or {}),
        "provenance": dict(provenance or {}),
        "unfinished": dict(unfinished or {}),
        "versions": dict(versions),
        "config_sha256": config.sha256(),
    }
    return dict(plain(metrics))


def _behaviour_differences(arms: Mapping[str, pa.Table], clusters: Clusters | None) -> dict[str, Any]:
    return {
        pair_name(before, after): behaviour_difference(arms[before], arms[after], clusters)
        for before, after in pairs(list(arms))
    }


def _sampling(sampled: pa.Table, problems: int, seconds: float | None) -> dict[str, Any]:
    tokens = int(pc.sum(sampled["completion_tokens"]).as_py() or 0)
    figures = {
        "generated_tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds if seconds else None,
        "by_difficulty": {},
        "behaviours": behaviours(sampled),
    }
    if sampled.num_rows == 0:
        return figures | {"acceptance_rate": None, "problems_covered": 0}
    correct = pc.equal(sampled["verdict_outcome"], Outcome.CORRECT.value)
    overall = acceptance(sampled)
    covered = pc.count_distinct(sampled["problem_id"].filter(correct)).as_py()
    parts = {name: sampled.filter(pc.equal(sampled["problem_difficulty"], name)) for name in difficulties(sampled)}
    return figures | {
        "acceptance_rate": overall.mean,
        "acceptance": asdict(overall),
        "problems_covered": covered,
        "coverage": asdict(wilson(covered, problems)),
        "by_difficulty": {name: {"acceptance": asdict(acceptance(part))} for name, part in parts.items()},
    }


def _cost(cost: Cost | None, sampled: pa.Table) -> dict[str, Any]:
    by_teacher = {
        teacher: {
            "rollouts": part.num_rows,
            "acceptance": asdict(acceptance(part)),
            "tokens": pc.sum(part["completion_tokens"]).as_py(),
        }
        for teacher in sorted(pc.unique(sampled["teacher"]).to_pylist())
        if (part := sampled.filter(pc.equal(sampled["teacher"], teacher))).num_rows
    }
    if cost is None:
        return {"by_teacher": by_teacher, "cost": None}
    correct = pc.sum(pc.equal(sampled["verdict_outcome"], Outcome.CORRECT.value)).as_py() or 0
    figures = asdict(cost) | {
        "tokens_per_correct": cost.generated_tokens / correct if correct else None,
        "accelerator_seconds_per_correct": cost.accelerator_seconds / correct if correct else None,
        "idle_fraction": cost.idle_seconds / cost.replica_seconds if cost.replica_seconds else None,
    }
    return {"by_teacher": by_teacher, "cost": figures}


def _verdicts(
    config: Config,
    sampled: pa.Table,
    trust: Trust,
) -> dict[str, Any]:
    checkers = sampled["verdict_checker"].value_counts().to_pylist()
    verified, found = trust.verified, trust.suspects
    return {
        "checkers": {it["values"]: it["counts"] for it in sorted(checkers, key=lambda it: -it["counts"])},
        "unsandboxed": config.checking.unsandboxed and any(it["values"] == "program" for it in checkers),
        "judge": verified["judge"] if verified else None,
        "controls": verified["controls"] if verified else None,
        "agreement": verified["agreement"] if verified else None,
        "gold_audit": {
            "looked_at": trust.looked_at,
            "suspected": len(found),
            "suspects": [
                {
                    "problem_id": it.problem.id,
                    "question": it.problem.question[:300],
                    "answer": it.problem.answer,
                    "majority": it.majority.answer[:120],
                    "votes": it.majority.votes,
                    "of": it.majority.num_answers,
                }
                for it in found[:_SHOWN_SUSPECTS]
            ],
        },
    }


def _training(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    if not rows:
        return {
            "steps": 0,
            "first_loss": None,
            "last_loss": None,
            "tokens_per_second": None,
            "non_finite_step": None,
            "curve": [],
        }
    return {
        "steps": len(rows),
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "tokens_per_second": median(row["tokens_per_second"] for row in rows),
        "non_finite_step": next((row["step"] for row in rows if not isfinite(row["loss"])), None),
        "curve": [dict(row) for row in rows],
    }


def plain(value: Any) -> Any:
    """Return JSON's own values: enums as text, tuples as lists, and null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [plain(child) for child in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value
