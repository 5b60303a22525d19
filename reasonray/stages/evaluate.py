"""Models → scores: base, teachers, checkpoints and student solve the held-out problems, by the same sampler.

An arm is a model under a prompt. The base arm is the untrained student asked as the student is, so that the difference
is what training did; the teacher arm is asked as it was for its rollouts.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby

from reasonray.config import Fixed, Student, Teacher
from reasonray.console import say
from reasonray.records import Problem, Split
from reasonray.run import Run
from reasonray.stages.leases import Order, draw
from reasonray.stages.replicas import EngineSpec, Fleet
from reasonray.stages.sample import engine_spec

BASE, STUDENT = "base", "student"


@dataclass(frozen=True, slots=True)
class _Measured:
    """One arm: who is asked, by which replicas, on how many problems."""

    order: Order
    spec: EngineSpec
    replicas: int


def evaluate(run: Run, fleet: Fleet, arms: Collection[str] | None = None) -> None:
    """Draw the samples of the arms named, or of all whose model is there already.

    Raises:
        UserError: there are no problems yet; or see stages/leases.py.
    """
    measured = [arm for arm in _arms(run) if arms is None or arm.order.arm in arms]
    for spec, group in groupby(measured, key=lambda arm: arm.spec):
        together = list(group)
        orders = [arm.order for arm in together]
        drawn = draw(run, "evaluate", orders, spec, together[0].replicas, fleet)
        names = ", ".join(order.arm for order in orders)
        if not drawn.rollouts:
            say("evaluate", f"done before   {names}")
        else:
            say("evaluate", f"{drawn.rollouts:>7,} samples of {names}   {drawn.seconds:.0f} s")


def arms_before_training(run: Run) -> list[str]:
    """Return the arms that can be measured while the teachers are still up."""
    return [BASE, *(teacher.name for teacher in run.config.teachers)]


def _arms(run: Run) -> list[_Measured]:
    config, test = run.config, run.problems(Split.TEST)
    if not test:
        return []
    few = _spread(test, config.evaluation.checkpoint_problems)
    arms = [_measured(run, BASE, config.student, None, test, config.evaluation.samples)]
    arms += [
        _measured(run, teacher.name, teacher, None, test, config.evaluation.samples) for teacher in config.teachers
    ]
    if few:
        for checkpoint in run.checkpoints()[:-1]:  # the last one is the student, who has an arm of its own
            model = str(checkpoint / "model")
            arms.append(
                _measured(run, checkpoint.name, config.student, model, few, config.evaluation.checkpoint_samples)
            )
    if (run.student / "final" / "manifest.json").exists():
        model = str(run.student / "final")
        arms.append(_measured(run, STUDENT, config.student, model, test, config.evaluation.samples))
    return arms


def _measured(
    run: Run, arm: str, who: Teacher | Student, model: str | None, problems: Sequence[Problem], samples: int
) -> _Measured:
    order = Order(arm, problems, who.prompt, who.sampling, Fixed(samples=samples), run.evaluation(arm))
    return _Measured(order, engine_spec(run, who, model), who.replicas)


def _spread(problems: Sequence[Problem], count: int) -> list[Problem]:
    """Take `count` problems evenly over the difficulties: round-robin in the snapshot's order."""
    ranks: dict[str, int] = {}
    numbered = []
    for problem in problems:
        ranks[problem.difficulty] = ranks.get(problem.difficulty, -1) + 1
        numbered.append((ranks[problem.difficulty], problem.difficulty, problem))
    return [problem for _, _, problem in sorted(numbered, key=lambda item: item[:2])[:count]]
