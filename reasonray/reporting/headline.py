"""The result in words: one sentence that claims no more than its interval, and remarks to read with it."""

from __future__ import annotations

from enum import Enum

from markupsafe import Markup

from reasonray.analysis.comparisons import pair_name, pairs
from reasonray.records import BASE, STUDENT, Interval
from reasonray.reporting.numbers import Form, Numbers

PAIR = pair_name(BASE, STUDENT)
FEW_PROBLEMS = 30
"""Below this many test problems, the page warns that the test set is small."""
_NAMED_RULES = 3
"""Rules that the remark on dropped rollouts names."""
_EXTREMES = {
    0.0: "No sample of either model is correct: problems this hard cannot show a difference.",
    1.0: "Every sample of both models is correct: problems this easy cannot show a difference.",
}


class Direction(Enum):
    """What an interval of a difference supports."""

    HIGHER = "higher"
    LOWER = "lower"
    UNCLEAR = "unclear"

    @classmethod
    def of(cls, difference: Interval | None) -> Direction:
        """Return HIGHER or LOWER if the interval excludes 0, else UNCLEAR."""
        if difference is None or difference.low <= 0 <= difference.high:
            return cls.UNCLEAR
        return cls.HIGHER if difference.low > 0 else cls.LOWER


def headline(numbers: Numbers) -> Markup:
    """Return the sentence that the page opens with, preceded by a warning if the student must not be trusted.

    Its numbers are <data> elements; `.striptags()` makes it plain text.
    """
    warning = _broken_loss(numbers)
    return Markup("{} {}").format(warning, _result(numbers)) if warning else _result(numbers)


def _result(numbers: Numbers) -> Markup:
    if numbers.get("evaluation", STUDENT) is None:
        return _without_student(numbers) if numbers.get("evaluation") else _before_evaluation(numbers)
    after = numbers.number("evaluation", STUDENT, "all", "pass@1", "mean", form="percent")
    problems = numbers.counted("evaluation", STUDENT, "all", "problems", noun="held-out problem")
    difference = numbers.get_interval("difference", PAIR, "all")
    if difference is None:
        bounds = numbers.bounds("evaluation", STUDENT, "all", "pass@1", form="percent")
        return Markup(
            "The student reaches pass@1 of {} {} on {}, 95\u202f% interval; without a base there is "
            "nothing to compare it with."
        ).format(after, bounds, problems)
    before = numbers.number("evaluation", BASE, "all", "pass@1", "mean", form="percent")
    points = Markup("{} points {}").format(
        numbers.number("difference", PAIR, "all", "mean", form="points"),
        numbers.bounds("difference", PAIR, "all", form="points"),
    )
    direction = Direction.of(difference)
    if difference.low == difference.high == 0:
        return Markup("No difference at all: pass@1 is {} for base and student, the same on each of {}.").format(
            after, problems
        )
    if direction is Direction.UNCLEAR:
        return Markup(
            "No measurable difference: pass@1 is {} for the base and {} for the student on {}, {}, "
            "a 95\u202f% interval that includes 0."
        ).format(before, after, problems, points)
    return Markup("Distillation <em>{}</em> pass@1 from {} to {} on {}: {}, 95\u202f% interval.").format(
        "lifts" if direction is Direction.HIGHER else "lowers", before, after, problems, points
    )


def _without_student(numbers: Numbers) -> Markup:
    """Return the accuracy of each model of a run that evaluated no student."""
    arms = list(numbers.get("evaluation"))
    scores = Markup("; ").join(
        Markup("{} {}").format(arm, numbers.interval("evaluation", arm, "all", "pass@1", form="percent"))
        for arm in arms
    )
    return Markup("pass@1 on {}: {}, 95\u202f% interval{}.").format(
        numbers.counted("evaluation", arms[0], "all", "problems", noun="held-out problem"),
        scores,
        "s" * (len(arms) > 1),
    )


def _before_evaluation(numbers: Numbers) -> Markup:
    rollouts = numbers.counted("funnel", "rollouts", noun="rollout")
    problems = numbers.counted("funnel", "problems", noun="train problem")
    if not numbers.get("funnel", "rollouts"):
        return Markup("Nothing has been sampled yet; the run has {}.").format(problems)
    return Markup("The student has not been evaluated yet. So far {} of {} were sampled; {} are correct.").format(
        rollouts, problems, numbers.number("sampling", "acceptance_rate", form="percent")
    )


def remarks(numbers: Numbers) -> list[Markup]:
    """Return one sentence for each further question that the metrics can answer."""
    sentences = [
        _gained_and_lost(numbers),
        *_other_models(numbers),
        _length(numbers),
        _reasoning(numbers),
        _dropped(numbers),
        _unjudged(numbers),
        *unfinished(numbers, "Model {}"),
        _few(numbers),
    ]
    return [sentence for sentence in sentences if sentence]


def _gained_and_lost(numbers: Numbers) -> Markup | None:
    gained, lost = (numbers.get("difference", PAIR, "all", name) for name in ("gained", "lost"))
    if gained is None:
        return None
    if (extreme := extreme_of(numbers)) is not None:
        return Markup(_EXTREMES[extreme])
    if not gained and not lost:
        return Markup("No problem changed: the student has as many correct samples as the base on every one.")
    return Markup("Of the {} problems, the student does better on {} and worse on {}.").format(
        numbers.number("difference", PAIR, "all", "problems", form="count"),
        numbers.number("difference", PAIR, "all", "gained", form="count"),
        numbers.number("difference", PAIR, "all", "lost", form="count"),
    )


def extreme_of(numbers: Numbers) -> float | None:
    """Return 1 if every sample of base and student is correct, 0 if none is, else None."""
    before, after = (numbers.get("evaluation", arm, "all", "pass@1", "mean") for arm in (BASE, STUDENT))
    return float(after) if before == after and after in _EXTREMES else None


def _other_models(numbers: Numbers) -> list[Markup]:
    """Return a comparison of the student with each model except the base."""
    verdicts = {
        Direction.UNCLEAR: "not measurably different",
        Direction.HIGHER: "above it",
        Direction.LOWER: "below it",
    }
    sentences = []
    for before, after in pairs(list(numbers.get("evaluation") or {})):
        if before == BASE or after != STUDENT:
            continue
        path = ("difference", pair_name(before, after), "all")
        sentences.append(
            Markup("Against {}, which has its own prompt, the student is {}: {} points {}.").format(
                before,
                verdicts[Direction.of(numbers.get_interval(*path))],
                numbers.number(*path, "mean", form="points"),
                numbers.bounds(*path, form="points"),
            )
        )
    return sentences


def _length(numbers: Numbers) -> Markup | None:
    paths = [("evaluation", arm, "all", "completion_tokens", "mean") for arm in (BASE, STUDENT)]
    if any(numbers.get(*path) is None for path in paths):
        return None
    means = [numbers.number(*path, form="count") for path in paths]
    return Markup("Tokens per response: {} before, {} after{}.").format(
        *means, _change(numbers, "completion_tokens", "change")
    )


def _reasoning(numbers: Numbers) -> Markup | None:
    paths = [("behaviours", arm, name, "mean") for name in ("verification", "num_steps") for arm in (BASE, STUDENT)]
    if any(numbers.get(*path) is None for path in paths):
        return None
    means = [numbers.number(*path, form="percent" if "verification" in path else "measure") for path in paths]
    return Markup(
        "Responses that verify themselves: {} before, {} after{}. Reasoning steps per response: {} before, {} after{}."
    ).format(
        *means[:2],
        _change(numbers, "verification", "points"),
        *means[2:],
        _change(numbers, "num_steps", "change"),
    )


def _change(numbers: Numbers, name: str, form: Form) -> Markup:
    """Return the difference of the student's reasoning from the base's, and whether it is distinct from chance."""
    path = ("behaviour_difference", PAIR, name)
    if numbers.get(*path) is None:
        return Markup("")
    is_unclear = Direction.of(numbers.get_interval(*path)) is Direction.UNCLEAR
    parts = [
        numbers.number(*path, "mean", form=form),
        Markup("points" if form == "points" else ""),
        numbers.bounds(*path, form=form),
    ]
    return Markup(", {}{}").format(
        Markup(" ").join(part for part in parts if part), ", no measurable change" if is_unclear else ""
    )


def _dropped(numbers: Numbers) -> Markup | None:
    """Return the rules that dropped the most rollouts, largest first."""
    rules = list(numbers.get("funnel", "dropped") or {})
    if not rules:
        return None
    largest = Markup(", ").join(
        Markup("{} as \u201c{}\u201d").format(
            numbers.number("funnel", "dropped", rule, form="count"), rule.replace("_", " ")
        )
        for rule in rules[:_NAMED_RULES]
    )
    return Markup("Of {} train rollouts, {} were selected for training. Curation dropped {}{}.").format(
        numbers.number("funnel", "rollouts", form="count"),
        numbers.number("funnel", "selected", form="count"),
        largest,
        ", and fewer by each other rule" if len(rules) > _NAMED_RULES else "",
    )


def _unjudged(numbers: Numbers) -> Markup | None:
    rates = {arm: numbers.get("evaluation", arm, "all", "unjudged") or 0.0 for arm in numbers.get("evaluation") or {}}
    if not rates or max(rates.values()) == 0:
        return None
    worst = max(rates, key=lambda arm: rates[arm])
    return Markup(
        "Samples that could not be judged (a fault of the checker or the engine) count as not correct: "
        "at most {}, for model {}."
    ).format(numbers.number("evaluation", worst, "all", "unjudged", form="percent"), worst)


def unfinished(numbers: Numbers, subject: str) -> list[Markup]:
    """Return a sentence for each model, or run, that is left out because its samples are incomplete.

    Args:
        subject: what is left out, with a place for its name, such as "Model {}".
    """
    return [
        Markup(subject + " is left out: only {} of its {} samples exist. Run jobs/evaluate.py.").format(
            name,
            numbers.number("unfinished", name, "samples", form="count"),
            numbers.number("unfinished", name, "of", form="count"),
        )
        for name in numbers.get("unfinished") or {}
    ]


def _few(numbers: Numbers) -> Markup | None:
    problems = numbers.get("evaluation", STUDENT, "all", "problems")
    if problems is None or problems >= FEW_PROBLEMS:
        return None
    return Markup("A test set of {} is small: measure on more before believing the size of a difference.").format(
        numbers.counted("evaluation", STUDENT, "all", "problems", noun="problem")
    )


def _broken_loss(numbers: Numbers) -> Markup | None:
    if numbers.get("training", "non_finite_step") is None:
        return None
    return Markup("The loss was not finite at step {}: do not trust this student.").format(
        numbers.number("training", "non_finite_step", form="count")
    )
