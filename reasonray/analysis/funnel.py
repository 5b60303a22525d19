"""The funnel: counts from problems over sampled, correct, kept and selected rollouts to trained tokens.

Every rollout has exactly one fate: dropped by a rule, kept but over its problem's quota, or selected. The fates sum to
the number of sampled rollouts. Every selected rollout is trained on or left out for a stated reason. A sum that does
not balance is an error, because then a number of the report would be wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.records import OVER_QUOTA, Outcome

_KEPT = ("", OVER_QUOTA)
"""Values of annotation_dropped_by of rollouts that no rule dropped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """The data that the student was trained on."""

    examples: int
    """Distinct examples: those of one epoch, not times the epochs."""
    tokens: int
    """Tokens with a loss in one epoch: the completions and their stop tokens."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Selected rollouts that were not trained on, by reason: overlong (longer than training.max_tokens), refused (a
    stop token in the text), validation (set aside to measure the loss on)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Funnel:
    """Counts from problems to trained tokens; the counts of a stage that has not run are None."""

    problems: int
    """Train problems, including those without a rollout."""
    rollouts: int
    """Rollouts of the teachers on them."""
    correct: int
    """Rollouts that the checker found correct."""
    kept: int | None
    """Rollouts that no rule dropped."""
    selected: int | None
    """Kept rollouts that selection took."""
    over_quota: int | None
    """Kept rollouts that selection did not take, because their problems have enough; `kept` = `selected` + these."""
    trained_examples: int | None
    """Distinct examples that the student was trained on."""
    trained_tokens: int | None
    """Tokens with a loss in one epoch."""
    left_out: Mapping[str, int] | None
    """Selected rollouts that were not trained on, by reason; `selected` = `trained_examples` + these."""
    outcomes: Mapping[str, int]
    """Rollouts by the checker's outcome; they sum to `rollouts`."""
    dropped: Mapping[str, int]
    """Rollouts by the rule that dropped them, the most first; `rollouts` = `kept` + these."""
    tokens: Mapping[str, int]
    """Completion tokens of all rollouts, and of the correct, kept and selected ones."""
    shares: Mapping[str, float]
    """Each count of rollouts as a share of all rollouts."""


def count_funnel(rollouts: pa.Table, problems: int, trained: Trained | None = None) -> Funnel:
    """Count the fates of the sampled rollouts.

    Args:
        rollouts: columns problem_id, verdict_outcome, completion_tokens and, once curated, annotation_dropped_by and
            annotation_selected.
        problems: the number of train problems, including those without a rollout.
        trained: the data that was trained on, once training has run.

    Raises:
        ValueError: a sum does not balance.
    """
    correct = pc.equal(rollouts["verdict_outcome"], Outcome.CORRECT.value)
    stages = {"correct": correct} | _curated_stages(rollouts)
    counts = {"rollouts": rollouts.num_rows} | {name: _count(mask) for name, mask in stages.items()}
    tokens = {"rollouts": _sum(rollouts["completion_tokens"])} | {
        name: _sum(rollouts["completion_tokens"].filter(mask)) for name, mask in stages.items()
    }
    if trained is not None:
        counts["trained"] = trained.examples
    funnel = Funnel(
        problems=problems,
        rollouts=rollouts.num_rows,
        correct=counts["correct"],
        kept=counts.get("kept"),
        selected=counts.get("selected"),
        over_quota=counts["kept"] - counts["selected"] if "kept" in counts else None,
        trained_examples=trained.examples if trained else None,
        trained_tokens=trained.tokens if trained else None,
        left_out=dict(trained.left_out) if trained else None,
        outcomes=_count_values(rollouts["verdict_outcome"]),
        dropped=_dropped(rollouts) if "kept" in counts else {},
        tokens=tokens,
        shares={name: count / rollouts.num_rows for name, count in counts.items()} if rollouts.num_rows else {},
    )
    _check_balance(funnel, problems_with_rollouts=pc.count_distinct(rollouts["problem_id"]).as_py())
    return funnel


def is_annotated(rollouts: pa.Table) -> bool:
    """Return whether the rollouts carry annotations.

    Raises:
        ValueError: some of them do and others do not.
    """
    if "annotation_dropped_by" not in rollouts.column_names or rollouts.num_rows == 0:
        return False
    missing = rollouts["annotation_dropped_by"].null_count
    if 0 < missing < rollouts.num_rows:
        raise ValueError(f"{missing} of {rollouts.num_rows} rollouts are not annotated; run jobs/curate.py again")
    return not missing


def _curated_stages(rollouts: pa.Table) -> dict[str, pa.ChunkedArray]:
    if not is_annotated(rollouts):
        return {}
    dropped_by = rollouts["annotation_dropped_by"]
    kept = pc.is_in(dropped_by, value_set=pa.array(_KEPT))
    selected = pc.fill_null(rollouts["annotation_selected"], False)
    both = _count(pc.and_(selected, pc.not_equal(dropped_by, "")))
    if both:
        raise ValueError(f"{both} rollouts were both dropped by a rule and selected")
    return {"kept": kept, "selected": selected}


def _dropped(rollouts: pa.Table) -> dict[str, int]:
    by_rule = _count_values(rollouts["annotation_dropped_by"])
    return {rule: count for rule, count in by_rule.items() if rule not in _KEPT}


def _check_balance(funnel: Funnel, problems_with_rollouts: int) -> None:
    if funnel.rollouts != sum(funnel.outcomes.values()):
        raise ValueError(f"{funnel.rollouts} rollouts, but their outcomes sum to {sum(funnel.outcomes.values())}")
    if problems_with_rollouts > funnel.problems:
        raise ValueError(f"rollouts of {problems_with_rollouts} problems, but there are only {funnel.problems}")
    if funnel.kept is None or funnel.selected is None:
        if funnel.trained_examples:
            raise ValueError(f"{funnel.trained_examples} examples were trained on, but the rollouts are not curated")
        return
    dropped = sum(funnel.dropped.values())
    if funnel.rollouts != funnel.kept + dropped:
        raise ValueError(f"{funnel.rollouts} rollouts, but {funnel.kept} kept + {dropped} dropped")
    if funnel.selected > funnel.kept:
        raise ValueError(f"{funnel.selected} rollouts were selected, but only {funnel.kept} kept")
    left_out = sum((funnel.left_out or {}).values())
    if funnel.trained_examples is not None and funnel.selected != funnel.trained_examples + left_out:
        raise ValueError(
            f"{funnel.selected} rollouts were selected, but {funnel.trained_examples} trained on + {left_out} left out"
        )


def _count_values(column: pa.ChunkedArray) -> dict[str, int]:
    """Return how often each value occurs, the most frequent first, equally frequent ones by name."""
    counted = ((entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist())
    return dict(sorted(counted, key=lambda entry: (-entry[1], entry[0] or "")))


def _count(mask: pa.ChunkedArray) -> int:
    return _sum(pc.cast(mask, pa.int64()))


def _sum(column: pa.ChunkedArray) -> int:
    return int(pc.sum(column).as_py() or 0)
