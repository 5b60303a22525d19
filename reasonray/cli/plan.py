"""A forecast of how much a configuration can sample at most; starts nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from reasonray import engines, problems
from reasonray.analysis.comparisons import clusters_of
from reasonray.config import Config, HubSource, PromptedModel, RecordedEngine
from reasonray.curation.paraphrases import NUM_CONTROLS
from reasonray.engines.answers import estimated_tokens
from reasonray.errors import UnreachableError
from reasonray.problems import Loaded
from reasonray.prompts import messages
from reasonray.records import Problem, Split, content_hash
from reasonray.sampling.policy import assign_problems, max_samples

_ESTIMATED = 1000
"""Problems from which the tokens of prompts are estimated."""


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
        what = f"rollouts at most by {teacher.name}"
        lines.append(_at_most("sample", rollouts[teacher.name], what, [teacher], train))
    if limits := [f"{limit:,} {name.replace('_', ' ')}" for name, limit in config.budget if limit is not None]:
        lines.append(f"budget     sampling ends at {' or '.join(limits)}")
    if judge := config.checking.judge:
        lines.append(f"verify     {total:>10,} rollouts at most are shown to {judge.model}")
    lines += _measurements(config, test)
    if judge := config.curation.paraphrase_judge:
        asked = min(len(train), config.curation.paraphrase_sample) + 2 * min(len(train), NUM_CONTROLS)
        lines.append(_at_most("label", asked, f"questions at most about paraphrases to {judge.model}", [judge]))
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


def _measurements(config: Config, test: Sequence[Problem]) -> list[str]:
    evaluation, student, training = config.evaluation, config.student, config.training
    arms = [student, *config.teachers, *evaluation.arms, *([student] if config.teachers else [])]
    lines = [_at_most("evaluate", len(test) * evaluation.samples, f"samples of {len(arms)} models", arms, test)]
    each = min(len(test), evaluation.checkpoint_problems) * evaluation.checkpoint_samples
    checkpoints = min(training.checkpoints - 1, training.keep or training.checkpoints)  # one becomes the student
    if config.teachers and each and checkpoints:
        what = f"samples of checkpoints, {checkpoints} at most"
        lines.append(_at_most("evaluate", each, what, [student] * checkpoints, test))
    return lines


def _at_most(stage: str, each: int, what: str, models: Sequence[PromptedModel], asked: Sequence[Problem] = ()) -> str:
    """Return a line: how many rollouts all models write together, and what their tokens cost.

    Args:
        stage: of the line.
        each: rollouts that every model writes.
        what: the rollouts are.
        models: that write.
        asked: the problems, if the prompts are made of them alone.
    """
    writing = [model for model in models if not isinstance(model.engine, RecordedEngine)]
    tokens = each * sum(model.sampling.max_tokens for model in writing)
    completions, prompts = defaultdict[str, float](float), defaultdict[str, float](float)
    for model in writing:
        if price := model.price:
            completions[price.currency] += price.of(0, each * model.sampling.max_tokens)
            prompts[price.currency] += price.of(round(each * _prompt_tokens(model, asked)), 0)
    money = ""
    for currency, cost in completions.items():
        money += f"   {cost:,.2f} {currency} at most for completions"
        money += f", about {prompts[currency]:,.2f} for prompts" if prompts[currency] else ""
    return f"{stage:<10} {each * len(models):>10,} {what}   {tokens:,} tokens at most{money}"


def _prompt_tokens(model: PromptedModel, asked: Sequence[Problem]) -> float:
    """Return an estimate of the mean tokens of a model's prompts."""
    few = asked[:_ESTIMATED]
    prompts = [model.asking.prompt(problem.source, number) for number, problem in enumerate(few)]
    chats = [messages(prompt, problem.question) for prompt, problem in zip(prompts, few, strict=True)]
    return sum(estimated_tokens(turn["content"]) for chat in chats for turn in chat) / max(1, len(few))
