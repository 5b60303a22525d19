"""The result in words: one sentence that claims no more than its interval does, and what to know beside it."""

from __future__ import annotations

from markupsafe import Markup

from reasonray.analysis.comparisons import pair_name, pairs
from reasonray.records import BASE, STUDENT
from reasonray.report.numbers import Numbers

PAIR = pair_name(BASE, STUDENT)
FEW_PROBLEMS = 30
_NAMED_RULES = 3
_EXTREMES = {
    0.0: "No sample of either arm is right: problems this hard cannot show a difference.",
    1.0: "Every sample of both arms is right: problems this easy cannot show a difference.",
}


def headline(numbers: Numbers) -> Markup:
    """Return the sentence that the page opens with; before it, whatever forbids to believe it."""
    broken = _broken_loss(numbers)
    return Markup("{} {}").format(broken, _result(numbers)) if broken else _result(numbers)


def _result(numbers: Numbers) -> Markup:
    if numbers.find("evaluation", STUDENT) is None:
        return _measured_alone(numbers) if numbers.find("evaluation") else _before_evaluation(numbers)
    after = numbers.one("evaluation", STUDENT, "all", "pass@1", "mean", form="percent")
    problems = numbers.counted("evaluation", STUDENT, "all", "problems", noun="held-out problem")
    low, high = (numbers.find("difference", PAIR, "all", end) for end in ("low", "high"))
    if low is None or high is None:
        bounds = numbers.bounds("evaluation", STUDENT, "all", "pass@1", form="percent")
        return Markup(
            "The student reaches pass@1 of {} {} on {}, 95\u202f% interval; without a base there is "
            "nothing to compare it with."
        ).format(after, bounds, problems)
    before = numbers.one("evaluation", BASE, "all", "pass@1", "mean", form="percent")
    points = Markup("{} points {}").format(
        numbers.one("difference", PAIR, "all", "mean", form="points"),
        numbers.bounds("difference", PAIR, "all", form="points"),
    )
    if low == high == 0:
        return Markup("No difference at all: pass@1 is {} for base and student, alike on each of {}.").format(
            after, problems
        )
    if low <= 0 <= high:
        return Markup(
            "No measurable difference: pass@1 is {} for the base and {} for the student on {}, {}, "
            "a 95\u202f% interval that includes 0."
        ).format(before, after, problems, points)
    return Markup("Distillation <em>{}</em> pass@1 from {} to {} on {}: {}, 95\u202f% interval.").format(
        "lifts" if low > 0 else "lowers", before, after, problems, points
    )


def _measured_alone(numbers: Numbers) -> Markup:
    """Return what each model reaches, where no student is among them."""
    arms = list(numbers.find("evaluation"))
    each = Markup("; ").join(
        Markup("{} {}").format(arm, numbers.interval("evaluation", arm, "all", "pass@1", form="percent"))
        for arm in arms
    )
    return Markup("pass@1 on {}: {}, 95\u202f% interval{}.").format(
        numbers.counted("evaluation", arms[0], "all", "problems", noun="held-out problem"), each, "s" * (len(arms) > 1)
    )


def _before_evaluation(numbers: Numbers) -> Markup:
    rollouts = numbers.counted("funnel", "rollouts", noun="rollout")
    problems = numbers.counted("funnel", "problems", noun="train problem")
    if not numbers.find("funnel", "rollouts"):
        return Markup("Nothing has been sampled yet; the run has {}.").format(problems)
    return Markup("The student has not been evaluated yet. So far {} of {} were sampled; {} are correct.").format(
        rollouts, problems, numbers.one("sampling", "acceptance_rate", form="percent")
    )


def remarks(numbers: Numbers) -> list[Markup]:
    """Return what a careful reader would ask next, each one sentence; only what there is an answer to."""
    found = [
        _gained_and_lost(numbers),
        *_other_arms(numbers),
        _reasoning(numbers),
        _thrown_away(numbers),
        _unjudged(numbers),
        *unfinished(numbers, "Arm {}"),
        _few(numbers),
    ]
    return [remark for remark in found if remark]


def _gained_and_lost(numbers: Numbers) -> Markup | None:
    gained, lost = (numbers.find("difference", PAIR, "all", name) for name in ("gained", "lost"))
    if gained is None:
        return None
    if (extreme := extreme_of(numbers)) is not None:
        return Markup(_EXTREMES[extreme])
    if not gained and not lost:
        return Markup("No problem changed: the student has as many correct samples as the base on every one.")
    return Markup("Of the {} problems the student does better on {} and worse on {}.").format(
        numbers.one("difference", PAIR, "all", "problems", form="count"),
        numbers.one("difference", PAIR, "all", "gained", form="count"),
        numbers.one("difference", PAIR, "all", "lost", form="count"),
    )


def extreme_of(numbers: Numbers) -> float | None:
    """Return 1 where every sample of base and student is right, 0 where none is, else None."""
    before, after = (numbers.find("evaluation", arm, "all", "pass@1", "mean") for arm in (BASE, STUDENT))
    return float(after) if before == after and after in _EXTREMES else None


def _other_arms(numbers: Numbers) -> list[Markup]:
    """Compare the student with each arm but the base."""
    sentences = []
    for before, after in pairs(list(numbers.find("evaluation") or {})):
        if before == BASE or after != STUDENT:
            continue
        pair = pair_name(before, after)
        low, high = (numbers.find("difference", pair, "all", end) for end in ("low", "high"))
        verdict = "not measurably different" if low <= 0 <= high else "above it" if low > 0 else "below it"
        sentences.append(
            Markup("Against {}, which is asked with its own prompt, the student is {}: {} points {}.").format(
                before,
                verdict,
                numbers.one("difference", pair, "all", "mean", form="points"),
                numbers.bounds("difference", pair, "all", form="points"),
            )
        )
    return sentences


def _reasoning(numbers: Numbers) -> Markup | None:
    paths = [("behaviours", arm, name, "mean") for name in ("verification", "num_steps") for arm in (BASE, STUDENT)]
    if any(numbers.find(*path) is None for path in paths):
        return None
    found = [numbers.one(*path, form="percent" if "verification" in path else "measure") for path in paths]
    return Markup(
        "Responses that verify themselves: {} before, {} after{}. Reasoning depth: {} steps, then {}{}."
    ).format(
        *found[:2],
        _change(numbers, "verification", "points"),
        *found[2:],
        _change(numbers, "num_steps", "change"),
    )


def _change(numbers: Numbers, name: str, form: str) -> Markup:
    """Return by how much the student's reasoning differs from the base's, and whether that can be told from chance."""
    path = ("behaviour_difference", PAIR, name)
    if numbers.find(*path) is None:
        return Markup("")
    low, high = (numbers.find(*path, end) for end in ("low", "high"))
    unclear = low is None or high is None or low <= 0 <= high
    parts = [
        numbers.one(*path, "mean", form=form),
        Markup("points" if form == "points" else ""),
        numbers.bounds(*path, form=form),
    ]
    return Markup(", {}{}").format(
        Markup(" ").join(part for part in parts if part), ", no measurable change" if unclear else ""
    )


def _thrown_away(numbers: Numbers) -> Markup | None:
    """Say what the rules dropped, the most first."""
    rules = list(numbers.find("funnel", "dropped") or {})
    if not rules:
        return None
    most = Markup(", ").join(
        Markup("{} as \u201c{}\u201d").format(
            numbers.one("funnel", "dropped", rule, form="count"), rule.replace("_", " ")
        )
        for rule in rules[:_NAMED_RULES]
    )
    return Markup("Of {} train rollouts {} were selected to learn from; dropped were {}{}.").format(
        numbers.one("funnel", "rollouts", form="count"),
        numbers.one("funnel", "selected", form="count"),
        most,
        ", and fewer by each other rule" if len(rules) > _NAMED_RULES else "",
    )


def _unjudged(numbers: Numbers) -> Markup | None:
    rates = {arm: numbers.find("evaluation", arm, "all", "unjudged") or 0.0 for arm in numbers.find("evaluation") or {}}
    if not rates or max(rates.values()) == 0:
        return None
    worst = max(rates, key=lambda arm: rates[arm])
    return Markup(
        "Samples that could not be judged (a fault of checker or engine) count as not correct: at most {}, in arm {}."
    ).format(numbers.one("evaluation", worst, "all", "unjudged", form="percent"), worst)


def unfinished(numbers: Numbers, what: str) -> list[Markup]:
    """Return what is left out as it is not measured whole, such as "Arm {}", each with how much of it there is."""
    return [
        Markup(what + " is left out, as only {} of its {} samples are drawn: run jobs/evaluate.py.").format(
            arm,
            numbers.one("unfinished", arm, "samples", form="count"),
            numbers.one("unfinished", arm, "of", form="count"),
        )
        for arm in numbers.find("unfinished") or {}
    ]


def _few(numbers: Numbers) -> Markup | None:
    problems = numbers.find("evaluation", STUDENT, "all", "problems")
    if problems is None or problems >= FEW_PROBLEMS:
        return None
    return Markup("A test set of {} is small: measure on more before believing the size of a difference.").format(
        numbers.counted("evaluation", STUDENT, "all", "problems", noun="problem")
    )


def _broken_loss(numbers: Numbers) -> Markup | None:
    if numbers.find("training", "non_finite_step") is None:
        return None
    return Markup("The loss was not finite at step {}: do not trust this student.").format(
        numbers.one("training", "non_finite_step", form="count")
    )
