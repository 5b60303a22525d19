"""References from one run to another under the same root: to its student (`run:NAME`) and to its rollouts.

A configuration keeps the reference, so that a root can be moved with all its runs. An open run holds the place instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TypeVar

from reasonray.config import Config, Judge, PromptedModel, RecordedEngine, ServerEngine
from reasonray.config.section import PATH_PART
from reasonray.errors import UserError
from reasonray.store.storage import Place, check_reachable, place

PREFIX = "run:"

Model = TypeVar("Model", bound=PromptedModel)


def student_of(run: Place) -> Place:
    """Return the directory of a run's student; its manifest.json is written last."""
    return run / "student" / "final"


def located(config: Config, run: Place) -> Config:
    """Return the configuration with the place of a student, or of a run, in place of each reference to it.

    Args:
        config: of the run.
        run: its directory; the other runs are next to it.
    """

    def located_or_none(model: Judge | None) -> Judge | None:
        return model and _located(model, run)

    checking, curation = config.checking, config.curation
    arms = tuple(_located(arm, run) for arm in config.evaluation.arms)
    return config.model_copy(
        update={
            "teachers": tuple(_located(teacher, run) for teacher in config.teachers),
            "student": _located(config.student, run),
            "checking": checking.model_copy(update={"judge": located_or_none(checking.judge)}),
            "curation": curation.model_copy(
                update={
                    "labeller": located_or_none(curation.labeller),
                    "paraphrase_judge": located_or_none(curation.paraphrase_judge),
                }
            ),
            "evaluation": config.evaluation.model_copy(update={"arms": arms}),
        }
    )


def is_of_run(model: PromptedModel) -> bool:
    """Return whether a model's completions are the rollouts of another run."""
    return isinstance(model.engine, RecordedEngine) and bool(model.engine.run)


def _located(model: Model, run: Place) -> Model:
    if isinstance(model.engine, RecordedEngine) and model.engine.run:
        engine = model.engine.model_copy(update={"run": str(run.parent / model.engine.run)})
        return model.model_copy(update={"engine": engine})
    name = referenced_run(model)
    return model if name is None else model.model_copy(update={"model": str(student_of(run.parent / name))})


def referenced_run(model: PromptedModel) -> str | None:
    """Return the name of the run whose student a model is, None if it is another model."""
    has_other_names = isinstance(model.engine, ServerEngine | RecordedEngine)  # a server's, or of who wrote
    return None if has_other_names or not model.model.startswith(PREFIX) else model.model.removeprefix(PREFIX)


def refuse_missing_students(config: Config) -> None:
    """Check that each run whose student a configuration names exists, and has finished its student.

    Raises:
        UserError: it does not, or has not, or is the run itself; the message begins with the key.
    """
    for key, model in _models_by_key(config):
        if (name := referenced_run(model)) is None:
            continue
        if not re.fullmatch(PATH_PART, name):
            raise UserError(f'{key} = "{model.model}": {name!r} cannot be the name of a run; write run:NAME')
        if name == config.name:
            if key.startswith("evaluation"):
                continue  # it is measured once it is there
            raise UserError(f'{key} = "{model.model}" is the student of this very run; name an earlier run')
        where = place(config.root) / name
        check_reachable(where)
        if not (where / "config.json").exists():
            raise UserError(f'{key} = "{model.model}": there is no run {name} below {where.parent}; check the name')
        if not (student_of(where) / "manifest.json").exists():
            raise UserError(f'{key} = "{model.model}": run {name} has no finished student; distil it first')


def _models_by_key(config: Config) -> Iterator[tuple[str, PromptedModel]]:
    for number, teacher in enumerate(config.teachers):
        yield f"teachers.{number}.model", teacher
    yield "student.model", config.student
    for arm in config.evaluation.arms:
        key = f"models.{arm.name}" if arm.name in config.evaluation.models else f"arms.{arm.name}.model"
        yield f"evaluation.{key}", arm
    if config.checking.judge:
        yield "checking.judge.model", config.checking.judge
    if config.curation.labeller:
        yield "curation.labeller.model", config.curation.labeller
    if config.curation.paraphrase_judge:
        yield "curation.paraphrase_judge.model", config.curation.paraphrase_judge
