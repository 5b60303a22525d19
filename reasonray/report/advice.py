"""What to do next, as far as the numbers say it: each a sentence, the most useful first."""

from __future__ import annotations

from collections.abc import Iterator

from markupsafe import Markup

from reasonray.analysis.estimators import POWER
from reasonray.records import STUDENT
from reasonray.report.headline import PAIR, extreme_of
from reasonray.report.numbers import Numbers

OFTEN = 0.1
"""A share of samples that is worth a change of settings."""
SELDOM_COVERED = 0.5
_THEIR_DETAILS = '<a href="#browser" data-filter="arm=student&amp;outcome=not_judged">their details</a>'


def next_steps(numbers: Numbers) -> list[Markup]:
    """Return what the numbers suggest to do; empty before anything is sampled."""
    if not numbers.find("funnel", "rollouts") and not numbers.find("evaluation"):
        return []
    if numbers.find("training", "non_finite_step") is not None:
        return [
            Markup(
                "Train again, with a lower <code>training.learning_rate</code> for one: what the student does says "
                "nothing about the data."
            ),
            *_samples(numbers),
        ]
    return [*_to_see_more(numbers), *_samples(numbers), *_student(numbers), *_answers(numbers)]


def _to_see_more(numbers: Numbers) -> Iterator[Markup]:
    path = ("difference", PAIR, "all")
    advice = numbers.find(*path, "advice")
    extreme = extreme_of(numbers)
    if advice is None:
        return
    if extreme is not None:
        yield Markup("Measure on {} problems, of which the arms solve some and not others.").format(
            "harder" if extreme else "easier"
        )
    elif advice == "enough":
        yield Markup("The test set is large enough for this difference.{}").format(_finds(numbers, path))
    elif advice == "samples":
        yield Markup("To see more, raise <code>evaluation.samples</code>: most noise is within problems.{}").format(
            _finds(numbers, path)
        )
    else:
        yield Markup("To see more, measure on more test problems.{}").format(_finds(numbers, path))


def _finds(numbers: Numbers, path: tuple[str, ...]) -> Markup:
    """Return what a test of this size finds, nothing where nobody knows."""
    if numbers.find(*path, "power", "detectable") is None:
        return Markup("")
    finds = Markup(
        " A test of this size finds a true difference of {} points in {}\u202f% of runs; twice the problems would find "
        "{}"
    ).format(
        numbers.one(*path, "power", "detectable", form="bare"),
        f"{POWER:.0%}".removesuffix("%"),
        numbers.one(*path, "power", "detectable_twice_problems", form="bare"),
    )
    if numbers.find(*path, "power", "detectable_twice_samples") is not None:
        finds += Markup(", twice the samples {}").format(
            numbers.one(*path, "power", "detectable_twice_samples", form="bare")
        )
    return finds + Markup(".")


def _samples(numbers: Numbers) -> Iterator[Markup]:
    problems, covered = numbers.find("funnel", "problems"), numbers.find("sampling", "problems_covered")
    if numbers.find("funnel", "rollouts") and problems and covered < SELDOM_COVERED * problems:
        yield Markup(
            "Only {} of {} train problems have a correct rollout: a stronger teacher, a better prompt or more samples "
            "(see below how coverage grows with K) would give the student more to learn from."
        ).format(
            numbers.one("sampling", "problems_covered", form="count"), numbers.one("funnel", "problems", form="count")
        )
    truncated, rollouts = numbers.find("funnel", "outcomes", "truncated"), numbers.find("funnel", "rollouts")
    if rollouts and truncated and truncated > OFTEN * rollouts:
        yield Markup("{} of {} train rollouts were cut: raise the teacher\u2019s <code>max_tokens</code>.").format(
            numbers.one("funnel", "outcomes", "truncated", form="count"),
            numbers.one("funnel", "rollouts", form="count"),
        )


def _student(numbers: Numbers) -> Iterator[Markup]:
    for rate, cure in (
        ("truncated", "raise the student\u2019s <code>max_tokens</code>, or train on shorter rollouts"),
        ("no_answer", "say in the prompt how the answer is to be given"),
        ("unjudged", f"read {_THEIR_DETAILS} in the browser below: checker, gold answer or engine is at fault"),
    ):
        if (numbers.find("evaluation", STUDENT, "all", rate) or 0) > OFTEN:
            yield Markup("{} of the student\u2019s samples are {}: {}.").format(
                numbers.one("evaluation", STUDENT, "all", rate, form="percent"),
                {"truncated": "cut", "no_answer": "without an answer", "unjudged": "not judged"}[rate],
                Markup(cure),
            )


def _answers(numbers: Numbers) -> Iterator[Markup]:
    if numbers.find("verdicts", "gold_audit", "suspected"):
        yield Markup(
            "In {} that no rollout solves, samples agree against the gold answer: read some, to see which is wrong."
        ).format(numbers.counted("verdicts", "gold_audit", "suspected", noun="problem"))
    if (
        numbers.find("evaluation")
        and numbers.find("evaluation", STUDENT) is None
        and numbers.find("funnel", "rollouts")
    ):
        yield Markup("Train and evaluate the student: <code>python jobs/distill.py CONFIG</code> goes on from here.")
