"""Rollouts whose answer is accepted by one opinion and refused by another: rules, judge, majority.

Opinions are those of the fast path and of the algebra, each on its own (where the rollout was audited), of the rules
together, of the judge (where it was asked), and of the majority of the problem's samples.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.answer_groups import group_equal_answers
from reasonray.analysis.estimators import share_interval
from reasonray.checkers.consensus import MIN_VOTES
from reasonray.records import JUDGED, Interval, Outcome, Problem
from reasonray.store.schema import rollout_keys, set_columns

FAST, ALGEBRA, RULES, JUDGE, MAJORITY = "fast path", "algebra", "rules", "judge", "majority"
OPINIONS = (FAST, ALGEBRA, RULES, JUDGE, MAJORITY)
"""The columns of `opinions`: True accepts the answer, False refuses it, null has no opinion."""
PAIRS = ((RULES, JUDGE), (JUDGE, MAJORITY), (FAST, ALGEBRA), (RULES, MAJORITY))
"""The opinions that are compared, the pair that says most about a verdict first."""
_SAMPLED = {(RULES, JUDGE), (JUDGE, MAJORITY)}
"""Pairs with a judge, who is asked about doubtful answers above all: only the audited ones are a sample of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisagreementKind:
    """How often one opinion accepts what another refuses."""

    accepts: str
    refuses: str
    rollouts: int
    problems: int
    asked: int
    """The rollouts of which both have an opinion; with a judge, those of the audited sample."""
    share: Interval | None
    """The kind's share of those, with an interval over problems; None if there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """An answer to a problem on which opinions differ, and the rollouts that give it."""

    problem: Problem
    answer: str | None
    """As the first of the rollouts writes it."""
    opinions: Mapping[str, bool]
    """Who has an opinion → whether it accepts the answer."""
    samples: tuple[str, ...]
    """Teacher and sample of each rollout."""
    answers: int
    """The answers to the problem."""
    votes: int
    """The samples that give the majority's answer; 0 if there is no majority."""


def opinions(
    rollouts: pa.Table, verified: pa.Table, problems: Mapping[str, Problem], *, min_share: float = 0.5
) -> pa.Table:
    """Return the rollouts with the columns of OPINIONS, `audited`, `answers` and `votes`.

    The majority is the answer that at least three samples and more than `min_share` of them give; all answers that the
    rules accept are one answer.

    Args:
        rollouts: columns id, resample, problem_id, verdict_outcome, verdict_extracted.
        verified: a table of VERIFIED_SCHEMA (store/verdicts.py), maybe without rows.
        problems: by id.
    """
    rows = pc.index_in(rollout_keys(rollouts), value_set=rollout_keys(verified).combine_chunks())
    found = {name: pc.take(verified[name].combine_chunks(), rows) for name in verified.column_names}
    outcome = pc.coalesce(found["rules_outcome"], rollouts["verdict_outcome"])
    extracted = pc.coalesce(found["verdict_extracted"], rollouts["verdict_extracted"])
    table = set_columns(rollouts, {"verdict_outcome": outcome, "verdict_extracted": extracted})
    columns = {
        FAST: _accepts(found["fast_outcome"]),
        ALGEBRA: _accepts(found["symbolic_outcome"]),
        RULES: _accepts(outcome),
        JUDGE: _accepts(found["judge_outcome"]),
        "audited": pc.fill_null(found["audited"], False),
        **_majority(table, problems, min_share),
    }
    for name, values in columns.items():
        table = table.append_column(name, values)
    return table


def kinds(table: pa.Table) -> list[DisagreementKind]:
    """Count the kinds of disagreement in a table from `opinions`, of all pairs that have opinions of one rollout."""
    _, problems = np.unique(np.asarray(table["problem_id"].to_pylist(), dtype=str), return_inverse=True)
    audited = np.asarray(table["audited"].to_pylist(), dtype=bool)
    values = {name: np.asarray([_number(value) for value in table[name].to_pylist()]) for name in OPINIONS}
    counted = []
    for pair in PAIRS:
        both = (values[pair[0]] >= 0) & (values[pair[1]] >= 0)
        asked = both & audited if pair in _SAMPLED else both
        for accepts, refuses in (pair, pair[::-1]):
            differs = both & (values[accepts] == 1) & (values[refuses] == 0)
            share = share_interval(differs[asked].astype(np.float64), clusters=problems[asked]) if asked.any() else None
            if both.any():
                counted.append(
                    DisagreementKind(
                        accepts=accepts,
                        refuses=refuses,
                        rollouts=int(differs.sum()),
                        problems=len(set(problems[differs])),
                        asked=int(asked.sum()),
                        share=share,
                    )
                )
    return counted


def disagreements(table: pa.Table, problems: Mapping[str, Problem]) -> list[Disagreement]:
    """Return the answers on which opinions differ: by pair in the order of PAIRS, then those of most rollouts first.

    Args:
        table: from `opinions`, with the columns teacher and sample.
        problems: by id.
    """
    groups: defaultdict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    names = ["problem_id", "verdict_extracted", "teacher", "sample", "answers", "votes", *OPINIONS]
    for row in table.select(names).to_pylist():
        held = tuple(row[name] for name in OPINIONS)
        if row["problem_id"] in problems and _rank(row) < len(PAIRS):
            groups[row["problem_id"], row["verdict_extracted"], held].append(row)
    found = [
        (
            _rank(rows[0]),
            -len(rows),
            Disagreement(
                problem=problems[problem_id],
                answer=answer,
                opinions={name: rows[0][name] for name in OPINIONS if rows[0][name] is not None},
                samples=tuple(f"{row['teacher']} #{row['sample']}" for row in rows),
                answers=rows[0]["answers"],
                votes=rows[0]["votes"],
            ),
        )
        for (problem_id, answer, _), rows in groups.items()
    ]
    ordered = sorted(found, key=lambda entry: (entry[0], entry[1], entry[2].problem.id, entry[2].answer or ""))
    return [disagreement for _, _, disagreement in ordered]


def _accepts(outcomes: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return whether outcomes accept the answer; null for those that are not about it, and for none."""
    judged = pc.is_in(outcomes, value_set=pa.array([outcome.value for outcome in JUDGED]))
    return pc.if_else(judged, pc.equal(outcomes, Outcome.CORRECT.value), pa.scalar(None, pa.bool_()))


def _majority(table: pa.Table, problems: Mapping[str, Problem], min_share: float) -> dict[str, pa.Array]:
    """Return the opinion of the problem's majority on each rollout, the number of answers, and the majority's votes."""
    spelled = group_equal_answers(table, problems)["verdict_extracted"].to_pylist()
    is_right = pc.equal(table["verdict_outcome"], Outcome.CORRECT.value).to_pylist()
    problem_ids = table["problem_id"].to_pylist()
    answers = [
        None if text is None else "" if right else f"={text}" for text, right in zip(spelled, is_right, strict=True)
    ]
    votes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for problem_id, answer in zip(problem_ids, answers, strict=True):
        if answer is not None:
            votes[problem_id][answer] += 1
    most = {problem_id: counter.most_common(1)[0] for problem_id, counter in votes.items()}
    totals = {problem_id: counter.total() for problem_id, counter in votes.items()}
    decided = {
        problem_id: (answer, count)
        for problem_id, (answer, count) in most.items()
        if count >= MIN_VOTES and count > min_share * totals[problem_id]
    }
    opinion = [
        None if answer is None or problem_id not in decided else answer == decided[problem_id][0]
        for problem_id, answer in zip(problem_ids, answers, strict=True)
    ]
    return {
        MAJORITY: pa.array(opinion, pa.bool_()),
        "answers": pa.array([totals.get(problem_id, 0) for problem_id in problem_ids], pa.int32()),
        "votes": pa.array([decided.get(problem_id, ("", 0))[1] for problem_id in problem_ids], pa.int32()),
    }


def _rank(row: Mapping[str, Any]) -> int:
    """Return the index of the first pair whose opinions differ, or the number of pairs if none do."""
    return next((index for index, pair in enumerate(PAIRS) if _differ([row[name] for name in pair])), len(PAIRS))


def _differ(values: Sequence[bool | None]) -> bool:
    return set(values) == {True, False}


def _number(value: bool | None) -> int:
    return -1 if value is None else int(value)
