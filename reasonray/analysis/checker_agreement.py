"""Agreement of the checkers that judged the same rollouts, and how a language model did as a judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.estimators import wilson
from reasonray.records import Outcome


def agreement(verified: pa.Table) -> dict[str, Any]:
    """Return how far the checkers agree on the rollouts that several of them judged.

    `missed` and `let_through` are estimates over the audited sample that take the judge's reply as the truth: the share
    of answers refused by the rules that the judge accepts, and of those accepted by the rules that it refuses.

    Args:
        verified: a table of VERIFIED_SCHEMA (store/verdicts.py).
    """
    judged = verified.filter(pc.is_valid(verified["judge_outcome"]))
    audited = judged.filter(judged["audited"])
    rules, judge = (audited[name].to_pylist() for name in ("rules_outcome", "judge_outcome"))
    decided = [(one, other) for one, other in zip(rules, judge, strict=True) if other in ("correct", "wrong")]
    refused = [other == "correct" for one, other in decided if one != "correct"]
    accepted = [other == "wrong" for one, other in decided if one == "correct"]
    return {
        "rules": _pairs(verified, "fast_outcome", "symbolic_outcome"),
        "judge": _pairs(judged, "rules_outcome", "judge_outcome"),
        "missed": asdict(wilson(sum(refused), len(refused))) | {"of": len(refused)} if refused else None,
        "let_through": asdict(wilson(sum(accepted), len(accepted))) | {"of": len(accepted)} if accepted else None,
    }


def control_results(accept: Sequence[str | None], refuse: Sequence[str | None]) -> dict[str, Any]:
    """Return how a judge did on its controls, and whether it is trusted.

    It is trusted if it accepts correct answers more readily than wrong ones, at the lower ends of both intervals.

    Args:
        accept: the judge's outcomes on answers that are correct; None for no reply.
        refuse: its outcomes on answers that are wrong.
    """
    accepted = [outcome == Outcome.CORRECT for outcome in accept]
    refused = [outcome == Outcome.WRONG for outcome in refuse]
    if not accepted or not refused:
        return {"accepts_gold": None, "refuses_others": None, "trusted": True}
    accepts, refuses = wilson(sum(accepted), len(accepted)), wilson(sum(refused), len(refused))
    return {
        "accepts_gold": asdict(accepts) | {"of": len(accepted)},
        "refuses_others": asdict(refuses) | {"of": len(refused)},
        "trusted": accepts.low > 1 - refuses.low,
    }


def _pairs(table: pa.Table, one: str, other: str) -> list[dict[str, Any]]:
    """Count the pairs of outcomes in two columns; null is a checker that was not asked."""
    asked = table.filter(pc.or_(pc.is_valid(table[one]), pc.is_valid(table[other])))
    counts = Counter(zip(asked[one].to_pylist(), asked[other].to_pylist(), strict=True))
    return [{"first": first, "second": second, "rollouts": count} for (first, second), count in counts.most_common()]
