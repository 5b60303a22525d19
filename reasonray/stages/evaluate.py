"""Models → scores: base, teachers, checkpoints and student solve the held-out problems, by the same sampler.

An arm is a model under a prompt. The base arm is the untrained student asked as the student is, so that the difference
is what training did; the teacher arm is asked as it was for its rollouts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import groupby

from reasonray.config import Asked, Fixed
from reasonray.console import say
from reasonray.records import Problem, Split
from reasonray.run import Run
from reasonray.stages.draw import draw
from reasonray.stages.fleet import Fleet
from reasonray.stages.orders import EngineSpec, Order

BASE, STUDENT = "base", "student"


def evaluate(run: Run, fleet: Fleet, arms: Collection[str] | None = None) -> None:
    """Draw the samples of the arms named, or of all whose model is there already.

    Raises:
        UserError: there are no problems yet; or see stages/draw.py.
    """
    orders = [order for order in _orders(run) if arms is None or order.arm in arms]
    for _, group in groupby(orders, key=lambda order: order.spec):
        together = list(group)
        drawn = draw(run, "evaluate", together, fleet)
        names = ", ".join(order.arm for order in together)
        if not drawn.total.rollouts:
            say("evaluate", f"done before   {names}")
        else:
            say("evaluate", f"{drawn.total.rollouts:>7,} samples of {names}   {drawn.seconds:.0f} s")


def arms_before_training(run: Run) -> list[str]:
    """Return the arms that can be measured while the teachers are still up."""
    return [BASE, *(teacher.name for teacher in run.config.teachers)]


def _orders(run: Run) -> list[Order]:
    config, test = run.config, run.problems(Split.TEST)
    if not test:
        return []
    few = _spread(test, config.evaluation.checkpoint_problems)
    arms = [_order(run, BASE, config.student, None, test, config.evaluation.samples)]
    arms += [_order(run, teacher.name, teacher, None, test, config.evaluation.samples) for teacher in config.teachers]
    if few:
        for checkpoint in run.checkpoints()[:-1]:  # the last one is the student, who has an arm of its own
            model = str(checkpoint / "model")
            arms.append(_order(run, checkpoint.name, config.student, model, few, config.evaluation.checkpoint_samples))
    if (run.student / "final" / "manifest.json").exists():
        model = str(run.student / "final")
        arms.append(_order(run, STUDENT, config.student, model, test, config.evaluation.samples))
    return arms


def _order(run: Run, arm: str, who: Asked, model: str | None, problems: Sequence[Problem], samples: int) -> Order:
    policy, spec = Fixed(samples=samples), EngineSpec.of(run, who, model)
    return Order(arm, problems, who.prompt, who.sampling, policy, run.evaluation(arm), spec, who.crew)


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Take `count` problems evenly over the difficulties: round-robin in the snapshot's order."""
    ranks: dict[str, int] = {}
    numbered = []
    for problem in problems:
        ranks[problem.difficulty] = ranks.get(problem.difficulty, -1) + 1
        numbered.append((ranks[problem.difficulty], problem.difficulty, problem))
    return [problem for _, _, problem in sorted(numbered, key=lambda item: item[:2])[:count]]
