"""Paraphrases of held-out problems: which pairs a language model is asked about, and what its replies mean.

N-grams find problems that share words in a row with a held-out one; the same problem in other words passes. So a model
is asked about the most similar pairs, as the LLM decontaminator does (Yang et al., 2023, arXiv 2311.04850), with
overlapping words in place of its embeddings. Pure functions; stages/paraphrases.py asks the model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reasonray.analysis.checker_agreement import control_results
from reasonray.analysis.estimators import wilson
from reasonray.analysis.json_records import from_json
from reasonray.analysis.metrics import ParaphraseControls, ParaphraseMetrics, Share
from reasonray.checkers import paraphrase
from reasonray.curation.decontamination import CONTAMINATION_SCHEMA, Item
from reasonray.curation.text import copy_key, normalised_words, strip_markup
from reasonray.records import Outcome, Problem, content_hash
from reasonray.store.run import Run

_NUMBER_WEIGHT = 0.1
"""Of a number, next to a word as rare: problems are alike by what they ask; numbers decide between equal wordings."""
_SIMILARITY = 0.1
"""A pair that is less similar is not asked about."""
NUM_CONTROLS = 50
"""Control questions of each kind, at most."""
_NUM_SHOWN = 20
_SHOWN_CHARACTERS = 1000
_NAMES = (
    ("Alice", "Anna", "Emily", "Emma", "Jane", "Jessica", "Julia", "Laura", "Lisa", "Maria", "Mary", "Sarah", "Susan"),
    ("Adam", "Alex", "Brian", "David", "Henry", "James", "John", "Kevin", "Michael", "Paul", "Peter", "Robert", "Tom"),
)
"""Given names that mean nothing else, so that one can take another's place."""
_GIVEN_NAME = re.compile(rf"\b(?:{'|'.join(name for names in _NAMES for name in names)})\b")
_SPACE_IN_PROSE = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])")
_WHOLE_NUMBER = re.compile(r"(?<![\w.,])[0-9]{1,9}(?![\w]|[.,][0-9])")
_FORMAL = re.compile(r"[\\$`{}=_^<>]|\b[^\W\d_aAI]\b")
"""Formulas, code and single letters, whose case has a meaning."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A train problem and the held-out item that resembles it most."""

    problem: Problem
    item: Item
    similarity: float
    """From 0 to 1."""

    @property
    def question(self) -> Problem:
        """The question to the model about the pair."""
        return paraphrase.question(self.problem.question, self.item.text)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlQuestions:
    """Questions of which it is known whether the two problems are the same."""

    same: tuple[Problem, ...] = ()
    """About a problem and itself, rewritten."""
    others: tuple[Problem, ...] = ()
    """About two different problems."""
    other_numbers: tuple[Problem, ...] = ()
    """About a problem and itself with another number."""

    @property
    def all(self) -> tuple[Problem, ...]:
        """The questions of all kinds."""
        return (*self.same, *self.others, *self.other_numbers)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundPair:
    """A train problem that is a held-out item in other words."""

    problem_id: str
    benchmark: str
    item_id: str
    similarity: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownPair(FoundPair):
    """A found pair with its statements, to be read."""

    problem: str
    item: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings(ParaphraseMetrics):
    """The content of paraphrases.json."""

    pairs: tuple[FoundPair, ...]
    first: tuple[ShownPair, ...]
    """The twenty most similar pairs."""

    @property
    def metrics(self) -> ParaphraseMetrics:
        """The figures without the pairs."""
        return ParaphraseMetrics(**{field.name: getattr(self, field.name) for field in fields(ParaphraseMetrics)})


@dataclass(frozen=True)
class ItemIndex:
    """Held-out items by their words, to find the one that resembles a text most.

    The similarity of two texts is the weight of the words that both have as a share of the weight of those that one of
    them has (weighted Jaccard). A word weighs the more the fewer items have it.
    """

    items: tuple[Item, ...]
    """With words; sorted, so that the order in which they came decides nothing."""
    words: Mapping[str, int]
    weights: npt.NDArray[np.float64]
    """Shape (words,)."""
    owners: tuple[npt.NDArray[np.int64], ...]
    """For each word the items that have it."""
    totals: npt.NDArray[np.float64]
    """Shape (items,): the weight of each item's words."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> ItemIndex:
        """Return the index of the items; those without a word resemble nothing, and are left out."""
        ordered = sorted(set(items), key=lambda item: (item.text, item.benchmark, item.id))
        texts = {item: words for item in ordered if (words := _words(item.text))}
        owners: dict[str, list[int]] = {}
        for number, words in enumerate(texts.values()):
            for word in words:
                owners.setdefault(word, []).append(number)
        weights = np.array([_weight(word, len(numbers), len(texts)) for word, numbers in owners.items()])
        totals = np.zeros(len(texts))
        arrays = tuple(np.array(numbers, np.int64) for numbers in owners.values())
        for weight, numbers in zip(weights, arrays, strict=True):
            totals[numbers] += weight
        return cls(tuple(texts), {word: number for number, word in enumerate(owners)}, weights, arrays, totals)

    def nearest(self, text: str) -> tuple[Item, float] | None:
        """Return the item that resembles a text most, with the similarity; None if there are no items or no words."""
        words = _words(text)
        if not words or not self.items:
            return None
        shared = np.zeros(len(self.items))
        total = 0.0
        for word in words:
            number = self.words.get(word)
            total += _weight(word, 0, len(self.items)) if number is None else float(self.weights[number])
            if number is not None:
                shared[self.owners[number]] += self.weights[number]
        similarities = shared / (total + self.totals - shared)
        best = int(similarities.argmax())
        return self.items[best], float(similarities[best])


def _words(text: str) -> list[str]:
    return sorted(set(normalised_words(text)))


def _weight(word: str, having: int, items: int) -> float:
    """Return the weight of a word that some of the items have: never 0, so that no word is without effect."""
    rarity = float(np.log1p(items / max(having, 1)))
    return _NUMBER_WEIGHT * rarity if word.isnumeric() else rarity


def sample_of(problems: Sequence[Problem], size: int) -> list[Problem]:
    """Return the problems whose hashed ids are lowest, so that a larger sample contains a smaller one."""
    return sorted(problems, key=lambda problem: content_hash("paraphrase", problem.id))[:size]


def similar_pairs(problems: Sequence[Problem], items: Sequence[Item]) -> list[Pair]:
    """Return each problem with its nearest item, without those that are too unlike each other to be asked about."""
    index = ItemIndex.of(items)
    nearest = ((problem, index.nearest(problem.question)) for problem in problems)
    return [Pair(problem, *found) for problem, found in nearest if found is not None and found[1] >= _SIMILARITY]


def controls(problems: Sequence[Problem]) -> ControlQuestions:
    """Return questions to which the answer is known.

    Two problems count as different only if their answers are, where both are known.
    """
    chosen = sorted(problems, key=lambda problem: content_hash("control", problem.id))[:NUM_CONTROLS]
    different = (
        (problem, other)
        for problem, other in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True)
        if copy_key(strip_markup(problem.question)) != copy_key(strip_markup(other.question))
        and (problem.answer is None or problem.answer != other.answer)
    )
    changed = ((problem.question, with_another_number(problem.question)) for problem in chosen)
    return ControlQuestions(
        same=tuple(paraphrase.question(problem.question, rewritten(problem.question)) for problem in chosen),
        others=tuple(paraphrase.question(problem.question, other.question, "no") for problem, other in different),
        other_numbers=tuple(paraphrase.question(one, other, "no") for one, other in changed if other is not None),
    )


def with_another_number(statement: str) -> str | None:
    """Return the problem with another number in place of its last whole one; None if it has none."""
    numbers = list(_WHOLE_NUMBER.finditer(statement))
    if not numbers:
        return None
    last = numbers[-1]
    return f"{statement[: last.start()]}{2 * int(last[0]) + 3}{statement[last.end() :]}"


def rewritten(statement: str) -> str:
    """Return the same problem, written differently: with other given names, other spaces and, in prose, in capitals."""
    named = set(_GIVEN_NAME.findall(statement))
    renamed: dict[str, str] = {}
    for names in _NAMES:
        free = (name for name in names if name not in named)
        renamed |= dict(zip((name for name in names if name in named), free, strict=False))
    text = _GIVEN_NAME.sub(lambda match: renamed.get(match[0], match[0]), statement)
    spaced = _SPACE_IN_PROSE.sub("  ", text)
    return spaced if _FORMAL.search(spaced) else spaced.upper()


def findings(
    model: str,
    num_items: int,
    sampled: int,
    pairs: Sequence[Pair],
    outcomes: Mapping[str, str],
    control_questions: ControlQuestions,
) -> Findings:
    """Return what a model's replies say.

    Args:
        model: the one that was asked.
        num_items: held-out items.
        sampled: problems in the sample; those without a pair were not asked about, and are not paraphrases.
        pairs: those that the model was asked about.
        outcomes: id of a question → outcome of its reply.
        control_questions: those of `controls`.
    """
    replies = [(pair, outcomes.get(pair.question.id)) for pair in pairs]
    read = [(pair, outcome) for pair, outcome in replies if outcome in (Outcome.CORRECT, Outcome.WRONG)]
    same = sorted(
        (pair for pair, outcome in read if outcome == Outcome.CORRECT),
        key=lambda pair: (-pair.similarity, pair.problem.id),
    )
    known = sampled - len(pairs) + len(read)
    share = wilson(len(same), known) if known else None
    return Findings(
        model=model,
        items=num_items,
        sampled=sampled,
        asked=len(pairs),
        read=len(read),
        paraphrases=len(same),
        share=Share(share.mean, share.low, share.high, count=known) if share else None,
        controls=_results(control_questions, outcomes),
        pairs=tuple(_found(pair) for pair in same),
        first=tuple(_shown(pair) for pair in same[:_NUM_SHOWN]),
    )


def _results(questions: ControlQuestions, outcomes: Mapping[str, str]) -> ParaphraseControls:
    """Return how the model did on its controls; it has to do better than chance on the hard ones, too."""
    same, others, other_numbers = (
        [outcomes.get(question.id) for question in kind]
        for kind in (questions.same, questions.others, questions.other_numbers)
    )
    on_others, on_numbers = control_results(same, others), control_results(same, other_numbers)
    return ParaphraseControls(
        accepts_same=_share(on_others["accepts_gold"] or on_numbers["accepts_gold"]),
        refuses_others=_share(on_others["refuses_others"]),
        refuses_other_numbers=_share(on_numbers["refuses_others"]),
        trusted=on_others["trusted"] and on_numbers["trusted"],
    )


def _share(interval: Mapping[str, Any] | None) -> Share | None:
    return None if interval is None else from_json(Share, interval)


def _found(pair: Pair) -> FoundPair:
    return FoundPair(
        problem_id=pair.problem.id,
        benchmark=pair.item.benchmark,
        item_id=pair.item.id,
        similarity=pair.similarity,
    )


def _shown(pair: Pair) -> ShownPair:
    found = _found(pair)
    texts = (text[:_SHOWN_CHARACTERS] for text in (pair.problem.question, pair.item.text))
    return ShownPair(
        problem_id=found.problem_id,
        benchmark=found.benchmark,
        item_id=found.item_id,
        similarity=found.similarity,
        **dict(zip(("problem", "item"), texts, strict=True)),
    )


def stored_findings(run: Run) -> Findings | None:
    """Return what was found in a run; None if its configuration names no judge of paraphrases, or none has replied."""
    document = (run.place / "paraphrases.json").read_json_or_none()
    if run.config.curation.paraphrase_judge is None or document is None:
        return None
    return from_json(Findings, document)


def contaminating(run: Run) -> pa.Table:
    """Return the paraphrases that rule `contaminated` drops, as overlaps without words (CONTAMINATION_SCHEMA).

    There are none without the rule, or if the model that found them did no better on its controls than chance.
    """
    found = stored_findings(run) if "contaminated" in run.config.curation.rules else None
    pairs = found.pairs if found and found.controls.trusted else ()
    rows = [{"problem_id": pair.problem_id, "benchmark": pair.benchmark, "item_id": pair.item_id} for pair in pairs]
    return pa.Table.from_pylist(rows, schema=CONTAMINATION_SCHEMA)
