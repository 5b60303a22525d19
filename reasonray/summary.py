"""metrics.json: every number of a run in one plain dictionary, the only source of report.html's figures and words.

Shape (an interval is {mean, low, high}; null is what cannot be known, such as a loss that is not finite):

    funnel        counts, tokens and shares from problems to trained tokens (funnel.Funnel)
    sampling      acceptance_rate, problems_covered, generated_tokens, seconds, tokens_per_second, by_teacher, …;
                  cost: tokens_per_correct (aborted attempts' tokens included), accelerator_seconds_per_correct,
                  idle_fraction of the replicas, deaths
    training      steps, first_loss, last_loss, tokens_per_second, non_finite_step
    evaluation    <arm> → all | <difficulty> → pass@k, maj@k, outcome rates, completion_tokens, problems, samples
    difference    "student-<arm>" → all | <difficulty> → mean, low, high, problems, gained, lost, transitions
    behaviours    <arm> → verification, backtracking, …, depth; by_difficulty; correct; not_correct
    k_curve       [{k, acceptance, coverage, kept, tokens_per_kept}]
    checkpoints   [{step, pass@1, verification, backtracking, depth, completion_tokens, problems, samples}]
    verdicts      checkers: <checker> → rollouts whose verdict it gave; judge, unsandboxed, controls, agreement
                  (stages/verify.agreement); gold_audit: looked_at, suspected, suspects [{question, majority, …}]
    labels        model, asked, labelled, kappa: <behaviour> → mean, low, high, lexical, model; null if none were
    stages        <stage> → seconds
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

from reasonray.checkers.consensus import Suspect
from reasonray.config import Config
from reasonray.estimators import wilson
from reasonray.funnel import Trained, count_funnel
from reasonray.metrics import Difference, acceptance, behaviours, difficulties, k_curve, paired_difference, score
from reasonray.records import UNJUDGED, Outcome, Score

BASE, STUDENT = "base", "student"
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
    "annotation_depth",
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
    test_problems: int | None = None,
    checkpoints: Mapping[int, pa.Table] | None = None,
    trust: Trust | None = None,
    stages: Mapping[str, float] | None = None,
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
        test_problems: how many problems each arm must have; a missing one would shrink the denominator unseen.
        checkpoints: the rollouts of test problems by training step, 0 being the base.
        trust: what is known of how good verdicts and annotations are.
        stages: seconds that each stage took.

    Raises:
        ValueError: a sum of the funnel does not balance, or problems or sample counts of arms do not match.
    """
    arms = arms or {}
    ks = sorted({1, *config.evaluation.k})
    scores = {arm: score(rollouts, arm, ks) for arm, rollouts in arms.items()}
    _check_problems(scores, test_problems)
    others = [arm for arm in arms if arm != STUDENT] if STUDENT in arms else []
    metrics = {
        "funnel": asdict(count_funnel(sampled, problems, trained)),
        "sampling": _sampling(sampled, problems, sampling_seconds) | _cost(cost, sampled),
        "training": _training(training),
        "evaluation": {arm: {s.difficulty: _score(s) for s in slices} for arm, slices in scores.items()},
        "difference": {f"{STUDENT}-{arm}": _differences(arms[arm], arms[STUDENT]) for arm in others},
        "behaviours": {arm: behaviours(rollouts) for arm, rollouts in arms.items()},
        "k_curve": k_curve(sampled, config.curation.keep_per_problem) if config.policy.kind == "fixed" else [],
        "checkpoints": [_checkpoint(step, rollouts) for step, rollouts in sorted((checkpoints or {}).items())],
        "labels": trust.labels if trust else None,
        "verdicts": _verdicts(config, sampled, trust or Trust()),
        "stages": dict(stages or {}),
        "versions": dict(versions),
        "config_sha256": config.sha256(),
    }
    plain: dict[str, Any] = _plain(metrics)
    return plain


def _check_problems(scores: Mapping[str, Sequence[Score]], expected: int | None) -> None:
    for arm, slices in scores.items():
        if expected is not None and slices[0].problems != expected:
            raise ValueError(f"arm {arm!r} has {slices[0].problems} problems instead of {expected}; finish evaluating")


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
                    "of": it.majority.of,
                }
                for it in found[:_SHOWN_SUSPECTS]
            ],
        },
    }


def _training(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    if not rows:
        return {"steps": 0, "first_loss": None, "last_loss": None, "tokens_per_second": None, "non_finite_step": None}
    return {
        "steps": len(rows),
        "first_loss": rows[0]["loss"],
        "last_loss": rows[-1]["loss"],
        "tokens_per_second": median(row["tokens_per_second"] for row in rows),
        "non_finite_step": next((row["step"] for row in rows if not isfinite(row["loss"])), None),
    }


def _score(of: Score) -> dict[str, Any]:
    return (
        {f"pass@{k}": asdict(interval) for k, interval in of.pass_at.items()}
        | {f"maj@{k}": asdict(interval) for k, interval in of.majority_at.items()}
        | {
            "truncated": of.outcomes[Outcome.TRUNCATED],
            "no_answer": of.outcomes[Outcome.NO_ANSWER],
            "unjudged": sum(of.outcomes[outcome] for outcome in UNJUDGED),
            "outcomes": {outcome.value: share for outcome, share in of.outcomes.items()},
            "completion_tokens": asdict(of.completion_tokens),
            "problems": of.problems,
            "samples": of.samples,
            "model": of.model,
        }
    )


def _differences(before: pa.Table, after: pa.Table) -> dict[str, Any]:
    return {name: _difference(difference) for name, difference in paired_difference(before, after).items()}


def _difference(difference: Difference) -> dict[str, Any]:
    figures = asdict(difference)
    interval: dict[str, float] = figures.pop("interval")
    return interval | figures


def _checkpoint(step: int, rollouts: pa.Table) -> dict[str, Any]:
    found = _score(score(rollouts, f"checkpoint at step {step}")[0])
    wanted = ("pass@1", "completion_tokens", "problems", "samples")
    figures = behaviours(rollouts)
    reasoning = {name: figures[name] for name in ("verification", "backtracking", "depth") if name in figures}
    return {"step": step} | {name: found[name] for name in wanted} | reasoning


def _plain(value: Any) -> Any:
    """Return JSON's own values: enums as text, tuples as lists, and null for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, float):
        return value if isfinite(value) else None
    return value
