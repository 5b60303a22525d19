"""Arms side by side: scores, paired differences of any two, problem sets, checkpoints; as metrics.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.answer_groups import alike
from reasonray.analysis.estimators import holm
from reasonray.analysis.reasoning_stats import behaviours
from reasonray.analysis.scores import ALL, Clusters, Difference, by_difficulty, paired_difference, rates, score
from reasonray.errors import UserError
from reasonray.records import STUDENT, UNJUDGED, Outcome, Problem, Score


def clusters_of(problems: Sequence[Problem], key: str | None) -> Clusters | None:
    """Return which problems are variants of one another: those of a source whose metadata has the same at a key.

    Raises:
        UserError: no problem has it.
    """
    if key is None:
        return None
    found = {
        it.id: f"{it.source}/{json.dumps(it.metadata[key], sort_keys=True)}" for it in problems if key in it.metadata
    }
    if problems and not found:
        known = ", ".join(sorted({name for it in problems for name in it.metadata})) or "nothing"
        raise UserError(
            f"evaluation.cluster = {key!r}: no test problem's metadata has it; correct it (there is {known})"
        )
    return found


def evaluation(
    arms: Mapping[str, pa.Table],
    ks: Sequence[int],
    problems: Sequence[Problem] | None = None,
    clusters: Clusters | None = None,
) -> dict[str, Any]:
    """Return the sections evaluation, difference and sets of metrics.json.

    Args:
        arms: rollouts of the test problems by arm.
        ks: for pass@k and maj@k.
        problems: what every arm must have been asked; a missing one would shrink the denominator unseen.
        clusters: which of them are variants of one another.

    Raises:
        ValueError: arms differ in problems or sample counts.
    """
    known = {it.id: it for it in problems or ()}
    if known and max(ks) > 1:
        arms = {arm: alike(rollouts, known) for arm, rollouts in arms.items()}
    scores = {arm: _scores(rollouts, arm, ks, clusters) for arm, rollouts in arms.items()}
    for arm, slices in scores.items():
        if problems is not None and slices[ALL]["problems"] != len(problems):
            found = slices[ALL]["problems"]
            raise ValueError(f"arm {arm!r} has {found} problems instead of {len(problems)}; finish evaluating")
    return {
        "evaluation": scores,
        "difference": {
            pair_name(before, after): _pair(arms, before, after, clusters) for before, after in pairs(list(arms))
        },
        "sets": _sets(arms, ks, clusters),
    }


def pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    """Return any two arms as (before, after): those with the student first, in the order of the arms."""
    ordered = [*(arm for arm in arms if arm != STUDENT), *(arm for arm in arms if arm == STUDENT)]
    return sorted(combinations(ordered, 2), key=lambda pair: pair[1] != STUDENT)


def pair_name(before: str, after: str) -> str:
    """Return what metrics.json calls a pair; arms' names may hold hyphens, so it cannot be taken apart again."""
    return f"{after}-{before}"


def _pair(arms: Mapping[str, pa.Table], before: str, after: str, clusters: Clusters | None) -> dict[str, Any]:
    return {name: flat(it) for name, it in paired_difference(arms[before], arms[after], clusters).items()}


def _scores(rollouts: pa.Table, arm: str, ks: Sequence[int], clusters: Clusters | None) -> dict[str, Any]:
    found = {it.difficulty: _score(it) for it in score(rollouts, arm, ks, clusters)}
    for name, part in [(ALL, rollouts), *by_difficulty(rollouts, list(found)[1:])]:
        found[name]["rates"] = {outcome: asdict(interval) for outcome, interval in rates(part, clusters).items()}
    return found


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


def flat(difference: Difference) -> dict[str, Any]:
    """Return a difference as metrics.json holds it: its interval at the top, and what to do to see more.

    `advice` is "enough" where the interval excludes 0, else "samples" where most of the variance is within problems,
    else "problems". Twice the problems always narrow an interval at least as much as twice the samples do, and cost
    the same; samples are the advice where they do nearly as well, as problems are what people run out of.
    """
    figures = asdict(difference)
    interval: dict[str, float] = figures.pop("interval")
    noise = difference.power.within_share
    unclear = interval["low"] <= 0 <= interval["high"]
    advice = "enough" if not unclear else "samples" if noise is not None and noise > 0.5 else "problems"
    return interval | figures | {"advice": advice}


def _sets(arms: Mapping[str, pa.Table], ks: Sequence[int], clusters: Clusters | None) -> dict[str, Any]:
    """Return scores and differences by problem set, where there are several."""
    if not arms or any("problem_source" not in rollouts.column_names for rollouts in arms.values()):
        return {}
    names = sorted(pc.unique(next(iter(arms.values()))["problem_source"]).to_pylist())
    if len(names) < 2:
        return {}
    found = {}
    for name in names:
        parts = {arm: it.filter(pc.equal(it["problem_source"], name)) for arm, it in arms.items()}
        found[name] = {
            "evaluation": {arm: _scores(part, arm, ks, clusters)[ALL] for arm, part in parts.items()},
            "difference": {
                pair_name(before, after): _pair(parts, before, after, clusters)[ALL]
                for before, after in pairs(list(arms))
            },
        }
    return found


def over_training(checkpoints: Mapping[int, pa.Table], clusters: Clusters | None = None) -> list[dict[str, Any]]:
    """Return the section checkpoints of metrics.json: how each did and reasoned, against step 0 where it is there.

    Differences to step 0 are tested several times over, so each has `p_holm`, its p-value adjusted for that.
    """
    rows = [_checkpoint(step, rollouts, clusters) for step, rollouts in sorted(checkpoints.items())]
    if 0 not in checkpoints:
        return rows
    later = [row for row in rows if row["step"]]
    for row in later:
        change = paired_difference(checkpoints[0], checkpoints[row["step"]], clusters)[ALL]
        row["difference"] = flat(change)
    adjusted = holm([row["difference"]["p"] for row in later])
    for row, p in zip(later, adjusted, strict=True):
        row["difference"]["p_holm"] = p
    return rows


def _checkpoint(step: int, rollouts: pa.Table, clusters: Clusters | None) -> dict[str, Any]:
    arm = rollouts["teacher"][0].as_py()
    scores = {it.difficulty: _score(it) for it in score(rollouts, f"checkpoint at step {step}", clusters=clusters)}
    figures = behaviours(rollouts, clusters)
    reasoning = figures.pop("by_difficulty", {})
    wanted = ("pass@1", "completion_tokens", "problems", "samples")
    overall = {name: scores[ALL][name] for name in wanted}
    by_difficulty = {
        name: reasoning.get(name, {}) | {"pass@1": found["pass@1"]} for name, found in scores.items() if name != ALL
    }
    return {"step": step, "arm": arm} | figures | overall | {"by_difficulty": by_difficulty}


def across_runs(students: Mapping[str, pa.Table], clusters: Clusters | None = None) -> dict[str, Any]:
    """Return "<after>-<before>" → {after, before, slices}: how two runs' students differ on problems that both have.

    Both are cut to the smaller number of samples. Runs without a problem in common have no entry. Of several pairs each
    has `p_holm`, its p-value adjusted for their number.

    Args:
        students: rollouts of the test problems by run.
        clusters: which problems, of any run, are variants of one another.
    """
    found: dict[str, Any] = {}
    for before, after in combinations(students, 2):
        shared = set(students[before]["problem_id"].to_pylist()) & set(students[after]["problem_id"].to_pylist())
        if shared:
            old, new = _cut([students[before], students[after]], shared)
            slices = {name: flat(it) for name, it in paired_difference(old, new, clusters).items()}
            found[pair_name(before, after)] = {"after": after, "before": before, "slices": slices}
    adjusted = holm([pair["slices"][ALL]["p"] for pair in found.values()])
    for pair, p in zip(found.values(), adjusted, strict=True):
        pair["slices"][ALL]["p_holm"] = p
    return found


def _cut(tables: Sequence[pa.Table], problems: set[str]) -> list[pa.Table]:
    """Return the rollouts of some problems, as many samples of each as the table with the fewest has."""
    samples = min(pc.max(table["sample"]).as_py() for table in tables) + 1
    return [part(table, pa.array(sorted(problems)), samples) for table in tables]


def part(rollouts: pa.Table, problems: pa.Array, samples: int) -> pa.Table:
    """Return the first samples of some problems."""
    same = pc.is_in(rollouts["problem_id"], value_set=problems)
    return rollouts.filter(pc.and_(same, pc.less(rollouts["sample"], samples)))
