"""Preference pairs: a correct rollout against a wrong one of the same problem, and the same unpaired. Pure.

The columns are those of TRL's DPOTrainer (prompt, chosen, rejected) and KTOTrainer (prompt, completion, label), in
conversational form. A pair should differ in its answer and in little else: the two are of similar length, or say
similar things, and both are what no rule on one rollout but `incorrect` would drop.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pyarrow as pa

from reasonray.config import Curation, Prompt
from reasonray.curation.export import TURNS, whole_answers
from reasonray.curation.features import text_hash
from reasonray.curation.rules import first_fired
from reasonray.curation.text import normalised_words
from reasonray.prompts import messages
from reasonray.records import OVER_QUOTA, Outcome, content_hash

_NGRAM = 5
_IDENTIFIED = [pa.field("id", pa.string(), nullable=False), pa.field("problem_id", pa.string(), nullable=False)]

PREFERENCE_SCHEMA = pa.schema(
    [
        *_IDENTIFIED,
        *(pa.field(name, TURNS, nullable=False) for name in ("prompt", "chosen", "rejected")),
        *(pa.field(name, pa.string(), nullable=False) for name in ("chosen_id", "rejected_id")),
        *(pa.field(name, pa.int32(), nullable=False) for name in ("chosen_tokens", "rejected_tokens")),
        pa.field("pass_rate", pa.float64()),
    ]
)
"""One row per pair."""
KTO_SCHEMA = pa.schema(
    [
        *_IDENTIFIED,
        *(pa.field(name, TURNS, nullable=False) for name in ("prompt", "completion")),
        pa.field("label", pa.bool_(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("pass_rate", pa.float64()),
    ]
)
"""One row per rollout; the label says whether it is correct."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rollout that may be one half of a pair."""

    id: str
    text: str
    tokens: int


def pair_up(
    correct: Sequence[Candidate],
    wrong: Sequence[Candidate],
    count: int,
    distance: Callable[[Candidate, Candidate], float],
) -> list[tuple[Candidate, Candidate]]:
    """Return pairs of a correct and a wrong rollout, the closest first; each rollout is in one pair at most.

    Args:
        correct: of one problem.
        wrong: of the same problem.
        count: pairs, at most.
        distance: of two rollouts.
    """
    pairs: list[tuple[Candidate, Candidate]] = []
    used: set[str] = set()
    for one, other in sorted(product(correct, wrong), key=lambda pair: (distance(*pair), pair[0].id, pair[1].id)):
        if len(pairs) == count:
            break
        if not used & {one.id, other.id}:
            pairs.append((one, other))
            used |= {one.id, other.id}
    return pairs


def length_difference(one: Candidate, other: Candidate) -> float:
    """Return by how many tokens the rollouts differ."""
    return abs(one.tokens - other.tokens)


def dissimilarity(one: Candidate, other: Candidate) -> float:
    """Return 1 - Jaccard similarity of the sets of word 5-grams."""
    first, second = _shingles(one.text), _shingles(other.text)
    return 1 - len(first & second) / max(1, len(first | second))


DISTANCES: Mapping[str, Callable[[Candidate, Candidate], float]] = {
    "length": length_difference,
    "similarity": dissimilarity,
}
"""curation.pair_by → the distance of the two rollouts of a pair."""


def _shingles(text: str) -> set[tuple[str, ...]]:
    words = normalised_words(text)
    return {tuple(words[start : start + _NGRAM]) for start in range(max(1, len(words) - _NGRAM + 1))}


def preference_pairs(table: pa.Table, prompt: Prompt, curation: Curation) -> pa.Table:
    """Return the preference pairs of some problems.

    Args:
        table: all rollouts of the problems, of schema.ROLLOUT_SCHEMA, curated.
        prompt: the student's.
        curation: gives pairs_per_problem, pair_by, and the rules.
    """
    rows = []
    for rollouts in _by_problem(table, curation).values():
        correct = [rollout.candidate for rollout in rollouts if rollout.is_correct]
        wrong = [rollout.candidate for rollout in rollouts if not rollout.is_correct]
        turns = messages(prompt, rollouts[0].question)
        for chosen, rejected in pair_up(correct, wrong, curation.pairs_per_problem, DISTANCES[curation.pair_by]):
            rows.append(
                {
                    "id": content_hash(chosen.id, rejected.id),
                    "problem_id": rollouts[0].problem_id,
                    "prompt": turns,
                    "chosen": _reply(chosen),
                    "rejected": _reply(rejected),
                    "chosen_id": chosen.id,
                    "rejected_id": rejected.id,
                    "chosen_tokens": chosen.tokens,
                    "rejected_tokens": rejected.tokens,
                    "pass_rate": rollouts[0].pass_rate,
                }
            )
    return pa.Table.from_pylist(rows, PREFERENCE_SCHEMA)


def labelled_rollouts(table: pa.Table, prompt: Prompt, curation: Curation) -> pa.Table:
    """Return correct and wrong rollouts with their label, keep_per_problem of a problem and label at most.

    Args:
        table: all rollouts of the problems, of schema.ROLLOUT_SCHEMA, curated.
        prompt: the student's.
        curation: gives keep_per_problem and the rules.
    """
    rows = []
    for rollouts in _by_problem(table, curation).values():
        for side in (True, False):
            same = sorted(
                (rollout for rollout in rollouts if rollout.is_correct is side), key=lambda one: one.candidate.id
            )
            rows += [
                {
                    "id": rollout.candidate.id,
                    "problem_id": rollout.problem_id,
                    "prompt": messages(prompt, rollout.question),
                    "completion": _reply(rollout.candidate),
                    "label": side,
                    "completion_tokens": rollout.candidate.tokens,
                    "pass_rate": rollout.pass_rate,
                }
                for rollout in same[: curation.keep_per_problem]
            ]
    return pa.Table.from_pylist(rows, KTO_SCHEMA)


def _reply(candidate: Candidate) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": candidate.text}]


@dataclass(frozen=True, slots=True)
class _Eligible:
    problem_id: str
    question: str
    pass_rate: float | None
    is_correct: bool
    candidate: Candidate


def _by_problem(table: pa.Table, curation: Curation) -> dict[str, list[_Eligible]]:
    """Return problem id → its rollouts that may be preferred or rejected, each text once, by problem id."""
    others = tuple(name for name in curation.rules if name != "incorrect")
    fired = first_fired(table, curation.model_copy(update={"rules": others})).to_pylist()
    names = ("id", "problem_id", "problem_question", "completion_tokens", "verdict_outcome")
    columns: list[list[Any]] = [table[name].to_pylist() for name in names]
    columns += [table[f"annotation_{name}"].to_pylist() for name in ("dropped_by", "pass_rate")]
    found: defaultdict[str, list[_Eligible]] = defaultdict(list)
    texts: set[tuple[str, str]] = set()
    for rule, text, id_, problem_id, question, tokens, outcome, dropped_by, pass_rate in zip(
        fired, whole_answers(table), *columns, strict=True
    ):
        is_correct = outcome == Outcome.CORRECT
        is_kept = dropped_by in ("", OVER_QUOTA) if is_correct else outcome == Outcome.WRONG
        if rule < len(others) or not is_kept:
            continue
        if (key := (problem_id, text_hash(text))) not in texts:
            texts.add(key)
            found[problem_id].append(
                _Eligible(problem_id, question, pass_rate, is_correct, Candidate(id_, text, tokens))
            )
    return dict(sorted(found.items()))
