"""Advice on what to do next, derived from the numbers: one sentence each, the most useful first."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from reasonray.analysis.estimators import POWER
from reasonray.records import STUDENT
from reasonray.reporting.headline import PAIR, extreme_of
from reasonray.reporting.numbers import Numbers

FREQUENT = 0.1
"""Above this share of samples, a failure is worth a change of settings."""
LOW_COVERAGE = 0.5
"""Below this share of train problems with a correct rollout, more correct rollouts are worth the effort."""
_DETAILS = '<a href="#browser" data-filter="arm=student&amp;outcome=not_judged">their details</a>'
_REMEDIES = (
    ("truncated", "truncated", "raise the student\u2019s <code>max_tokens</code>, or train on shorter rollouts"),
    ("no_answer", "without an answer", "state in the prompt how to give the answer"),
    (
        "unjudged",
        "not judged",
        f"read {_DETAILS} in the browser below; the checker, the gold answer or the engine is at fault",
    ),
)
"""Rate of a failure, its name in a sentence, and the remedy."""


def next_steps(numbers: Numbers) -> list[Markup]:
    """Return what the numbers suggest to do next; empty before anything is sampled."""
    if not numbers.get("funnel", "rollouts") and not numbers.get("evaluation"):
        return []
    if numbers.get("training", "non_finite_step") is not None:
        return [
            Markup(
                "Train again, for example with a lower <code>training.learning_rate</code>: the results of this "
                "student say nothing about the data."
            ),
            *_samples(numbers),
        ]
    return [*_precision(numbers), *_samples(numbers), *_student(numbers), *_answers(numbers)]


def _precision(numbers: Numbers) -> Iterator[Markup]:
    """Yield how to measure a smaller difference."""
    path = ("difference", PAIR, "all")
    advice = numbers.get(*path, "advice")
    extreme = extreme_of(numbers)
    if advice is None:
        return
    if extreme is not None:
        yield Markup("Measure on {} problems, so that the models solve some of them and not others.").format(
            "harder" if extreme else "easier"
        )
    elif advice == "enough":
        yield Markup("The test set is large enough for this difference.{}").format(_power(numbers, path))
    elif advice == "samples":
        yield Markup(
            "To detect smaller differences, raise <code>evaluation.samples</code>: most of the noise is within "
            "problems.{}"
        ).format(_power(numbers, path))
    else:
        yield Markup("To detect smaller differences, measure on more test problems.{}").format(_power(numbers, path))


def _power(numbers: Numbers, path: tuple[str, ...]) -> Markup:
    """Return the differences that a test of this size, and of twice the size, detects; nothing if unknown."""
    if numbers.get(*path, "power", "detectable") is None:
        return Markup("")
    sentence = Markup(
        " A test of this size detects a true difference of {} points in {}\u202f% of runs; with twice the problems it "
        "would detect {}"
    ).format(
        numbers.number(*path, "power", "detectable", form="bare"),
        f"{POWER:.0%}".removesuffix("%"),
        numbers.number(*path, "power", "detectable_twice_problems", form="bare"),
    )
    if numbers.get(*path, "power", "detectable_twice_samples") is not None:
        sentence += Markup(", with twice the samples {}").format(
            numbers.number(*path, "power", "detectable_twice_samples", form="bare")
        )
    return sentence + Markup(".")


def _samples(numbers: Numbers) -> Iterator[Markup]:
    problems, covered = numbers.get("funnel", "problems"), numbers.get("sampling", "problems_covered")
    is_sampled = numbers.get("funnel", "kept") is not None  # before, most problems may simply not have had their turn
    if is_sampled and numbers.get("funnel", "rollouts") and problems and covered < LOW_COVERAGE * problems:
        yield Markup(
            "Only {} of {} train problems have a correct rollout: a stronger teacher, a better prompt or more samples "
            "(see below how coverage grows with K) would give the student more to learn from."
        ).format(
            numbers.number("sampling", "problems_covered", form="count"),
            numbers.number("funnel", "problems", form="count"),
        )
    truncated, rollouts = numbers.get("funnel", "outcomes", "truncated"), numbers.get("funnel", "rollouts")
    if rollouts and truncated and truncated > FREQUENT * rollouts:
        yield Markup(
            "{} of {} train rollouts were truncated: raise the teacher\u2019s <code>max_tokens</code>."
        ).format(
            numbers.number("funnel", "outcomes", "truncated", form="count"),
            numbers.number("funnel", "rollouts", form="count"),
        )


def _student(numbers: Numbers) -> Iterator[Markup]:
    for rate, name, remedy in _REMEDIES:
        if (numbers.get("evaluation", STUDENT, "all", rate) or 0) > FREQUENT:
            yield Markup("{} of the student\u2019s samples are {}: {}.").format(
                numbers.number("evaluation", STUDENT, "all", rate, form="percent"), name, Markup(remedy)
            )


def _answers(numbers: Numbers) -> Iterator[Markup]:
    if numbers.get("verdicts", "gold_audit", "suspected"):
        yield Markup(
            "In {} that no rollout solves, samples agree with each other against the gold answer: read some to see "
            "which is wrong."
        ).format(numbers.counted("verdicts", "gold_audit", "suspected", noun="problem"))
    if numbers.get("evaluation") and numbers.get("evaluation", STUDENT) is None and numbers.get("funnel", "rollouts"):
        yield Markup("Train and evaluate the student: <code>python jobs/distill.py CONFIG</code> continues from here.")
