"""A forecast of how much a configuration can sample at most; starts nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reasonray import engines, problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.config import Config, HubSource, PromptedModel, RecordedEngine
from reasonray.errors import UnreachableError
from reasonray.problems import Loaded
from reasonray.records import Problem, Split, content_hash
from reasonray.sampling.policy import assign_problems, max_samples


def forecast(config: Config) -> str:
    """Return how many rollouts and tokens each stage can cost at most; the problems are loaded if they can be reached.

    Raises:
        UserError: a source is wrong, or the test problems have no evaluation.cluster.
    """
    result = _load(config)
    loaded = result.problems
    train = [problem for problem in loaded if problem.split is Split.TRAIN]
    test = [problem for problem in loaded if problem.split is Split.TEST]
    clusters_of(test, config.evaluation.cluster)
    assigned = assign_problems(config.teachers, [problem.id for problem in train])
    rollouts, notes = {}, []
    for teacher in config.teachers:
        most = np.full(len(train), max_samples(config.policy))
        if supply := engines.supply(teacher.engine, teacher.asking, train, test):
            supply.refuse_empty()
            most = np.minimum(most, supply.samples)
            notes += [f"recorded   {note}   ({teacher.name})" for note in supply.notes]
        own = slice(None) if isinstance(teacher.share, str) else assigned[teacher.name]
        rollouts[teacher.name] = int(most[own].sum())
    total = sum(rollouts.values())
    lines = [f"problems   {len(train):>10,} to distil   {len(test):,} held out"]
    lines += [f"problems   {note}" for note in result.notes]
    lines += notes
    for teacher in config.teachers:
        lines.append(_at_most("sample", rollouts[teacher.name], f"rollouts at most by {teacher.name}", [teacher]))
    if limits := [f"{limit:,} {name.replace('_', ' ')}" for name, limit in config.budget if limit is not None]:
        lines.append(f"budget     sampling ends at {' or '.join(limits)}")
    if judge := config.checking.judge:
        lines.append(f"verify     {total:>10,} rollouts at most are shown to {judge.model}")
    lines += _measurements(config, len(test))
    if labeller := config.curation.labeller:
        labelled = min(total, config.curation.labelled)
        lines.append(_at_most("label", labelled, f"rollouts at most by {labeller.model}", [labeller]))
    if config.rounds and config.rounds.count > 1:
        lines.append(f"rounds     {config.rounds.count:>10,} rounds, of which this is the first")
    for_teachers = sum(teacher.replica_bounds[1] * teacher.gpus for teacher in config.teachers)
    for_training = config.training.worker_bounds[1] * config.training.gpus
    lines.append(f"gpus       {for_teachers:>10,} for teachers   {for_training} for training")
    return "\n".join(lines)


def _load(config: Config) -> Loaded:
    """Return the problems; where the hub cannot be reached, as many stand-ins as its sources are limited to.

    Raises:
        UserError: a source is wrong, or cannot be reached and has no limit.
    """
    try:
        return problems.load(config.sources, to_distil=bool(config.teachers))
    except UnreachableError:
        hub = [source for source in config.sources if isinstance(source, HubSource)]
        for source in hub:
            if (source.train and source.limit_train is None) or (source.test and source.limit_test is None):
                raise
    others = [source for source in config.sources if not isinstance(source, HubSource)]
    loaded = problems.load(others, to_distil=False) if others else Loaded([])
    note = "the hub cannot be reached: its sources count with limit_train and limit_test, the most that they can hold"
    stand_ins = [problem for source in hub for problem in _stand_ins(source)]
    return Loaded([*loaded.problems, *stand_ins], loaded.dropped, (*loaded.notes, note))


def _stand_ins(source: HubSource) -> list[Problem]:
    """Return as many problems without content as a source is limited to."""
    name = source.name or source.path
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    return [
        Problem(id=content_hash(name, split, number), source=name, question="", answer=None, checker="", split=split)
        for split, part, limit in parts
        if part
        for number in range(limit or 0)
    ]


def _measurements(config: Config, problems: int) -> list[str]:
    evaluation, student, training = config.evaluation, config.student, config.training
    arms = [student, *config.teachers, *evaluation.arms, *([student] if config.teachers else [])]
    lines = [_at_most("evaluate", problems * evaluation.samples, f"samples of {len(arms)} models", arms)]
    each = min(problems, evaluation.checkpoint_problems) * evaluation.checkpoint_samples
    checkpoints = min(training.checkpoints - 1, training.keep or training.checkpoints)  # one becomes the student
    if config.teachers and each and checkpoints:
        what = f"samples of checkpoints, {checkpoints} at most"
        lines.append(_at_most("evaluate", each, what, [student] * checkpoints))
    return lines


def _at_most(stage: str, each: int, what: str, models: Sequence[PromptedModel]) -> str:
    """Return a line: how many rollouts all models write together, `each` of them by every one, and their tokens."""
    writing = [model for model in models if not isinstance(model.engine, RecordedEngine)]
    tokens = each * sum(model.sampling.max_tokens for model in writing)
    costs: dict[str, float] = {}
    for model in writing:
        if model.price:
            currency, cost = model.price.currency, model.price.of(0, each * model.sampling.max_tokens)
            costs[currency] = costs.get(currency, 0.0) + cost
    money = "".join(f"   {cost:,.2f} {currency} at most for completions" for currency, cost in costs.items())
    return f"{stage:<10} {each * len(models):>10,} {what}   {tokens:,} tokens at most{money}"
