"""A series of rounds on disk, and the configuration of each round, derived purely from that of the series.

<root>/<NAME>-r<N>/              round N: an ordinary run
<root>/<NAME>-r<N>/round.json    its place in the series, the run that came before, and the weights that teach it
<root>/<NAME>/rounds.*           the report by round

A run NAME that was begun without rounds is the first round, in the place of NAME-r1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reasonray.config import Config, Rounds, Teacher, UntilCorrect, parse
from reasonray.errors import UserError
from reasonray.store.run import Run, find_run
from reasonray.store.siblings import PREFIX
from reasonray.store.storage import Place, check_reachable, place

HINTED = "-hinted"
"""Ends the name of a teacher that sees the gold answer."""
_STUDENTS_KEYS = Teacher.model_fields.keys() - {"name", "license", "share", "frontier", "extend_truncated"}


@dataclass(frozen=True, slots=True)
class Series:
    """The rounds of a configuration."""

    config: Config
    rounds: Rounds
    first: str
    """Name of the first round's run."""

    @staticmethod
    def of(config: Config) -> Series:
        """Return the series of a configuration with rounds.

        Raises:
            UserError: the configuration has none, or its root cannot be read.
        """
        if config.rounds is None:
            raise UserError(f"{config.name} has no rounds; add a section [rounds], such as `rounds.count=3`")
        root = place(config.root)
        check_reachable(root / config.name)
        own, first = config.name, f"{config.name}-r1"
        is_older = not (root / first / "config.json").exists() and (root / own / "config.json").exists()
        return Series(config, config.rounds, own if is_older else first)

    @property
    def place(self) -> Place:
        """Where the report by round is."""
        return place(self.config.root) / self.config.name

    def name(self, number: int) -> str:
        """Return the name of a round's run."""
        return _run_name(self.config, number, self.first)

    def round_config(self, number: int) -> Config:
        """Return the configuration of a round, as an ordinary run's."""
        return round_config(self.config, number, self.first)

    def run_of(self, number: int) -> Run | None:
        """Return the run of a round, None if it has not begun.

        Raises:
            UserError: it cannot be read.
        """
        where = place(self.config.root) / self.name(number)
        return find_run(str(where)) if (where / "config.json").exists() else None

    def runs(self) -> list[Run]:
        """Return the rounds that have begun, in order, without gaps."""
        runs = []
        for number in range(1, self.rounds.count + 1):
            if (run := self.run_of(number)) is None:
                break
            runs.append(run)
        return runs


def round_config(config: Config, number: int, first: str) -> Config:
    """Return the configuration of one round. Pure.

    Args:
        config: of the series.
        number: of the round, from 1.
        first: name of the first round's run.

    Raises:
        ConfigError: the round is no valid run.
    """
    rounds = config.rounds or Rounds()
    raw = config.model_dump(mode="json") | {"rounds": None, "name": _run_name(config, number, first)}
    live = _live_teachers(config, rounds, number, first)
    if number > 1:
        if rounds.teacher != "student":
            raw["seed"] += number - 1  # or the same teachers would write the same samples
        if rounds.start == "previous":
            raw["student"] |= {"model": f"{PREFIX}{_run_name(config, number - 1, first)}", "revision": None}
    hinted = [_hinted(teacher, rounds.rationalise) for teacher in live] if rounds.rationalise else []
    recorded = _recorded(config, rounds, number, first)
    raw["teachers"] = [*recorded, *live, *hinted]
    rules = list(raw["curation"]["rules"])
    if hinted and "leaked_answer" not in rules:
        rules.append("leaked_answer")
    if recorded and rounds.data == "newest":
        rules.insert(0, "other_teacher")
        raw["curation"] |= {"teachers": [teacher["name"] for teacher in (*live, *hinted)]}
    raw["curation"] |= {"rules": rules}
    return parse(raw, origin=f"round {number}")


def _run_name(config: Config, number: int, first: str) -> str:
    return first if number == 1 else f"{config.name}-r{number}"


def _live_teachers(config: Config, rounds: Rounds, number: int, first: str) -> list[dict[str, Any]]:
    """Return the teachers that sample in a round, as plain values; the student of the round before comes first."""
    teachers = [teacher.model_dump(mode="json") for teacher in config.teachers]
    if number == 1:
        return teachers
    share = _share(config, rounds)
    fixed = [teacher for teacher in teachers if teacher["engine"]["kind"] != "recorded"]
    live = [] if rounds.teacher == "student" else fixed
    if rounds.own_student_teaches:
        live = [_student_as_teacher(config, number, first), *live]
    if share != 1.0:
        live = [teacher | {"share": share, "frontier": list(rounds.band)} for teacher in live]
    return live


def _share(config: Config, rounds: Rounds) -> float | str:
    """Return the share of the train problems that the teachers of a later round get."""
    if rounds.problems != "all":
        return "unsolved" if rounds.problems == "unsolved" else "frontier"
    wants_correct = isinstance(config.policy, UntilCorrect) and rounds.data == "union"
    return "unmet" if wants_correct else 1.0


def _student_as_teacher(config: Config, number: int, first: str) -> dict[str, Any]:
    """Return the student of the round before, asked as a student, with the first teacher's sampling parameters."""
    student, one = config.student.model_dump(mode="json"), config.teachers[0]
    return {key: value for key, value in student.items() if key in _STUDENTS_KEYS} | {
        "name": f"student-r{number - 1}",
        "model": f"{PREFIX}{_run_name(config, number - 1, first)}",
        "revision": None,
        "license": one.license if one.model == config.student.model else "",
        "sampling": one.sampling.model_dump(mode="json"),
        "temperatures": list(one.temperatures),
    }


def _hinted(teacher: Mapping[str, Any], template: str) -> dict[str, Any]:
    """Return a teacher as it is asked again, with the gold answer, where nothing is solved."""
    prompt = (teacher.get("prompts") or [teacher["prompt"]])[0] | {"template": template}
    changes = {"name": f"{teacher['name']}{HINTED}", "share": "unsolved", "prompt": prompt}
    return dict(teacher) | changes | {"prompts": [], "prompt_by_source": {}}


def _recorded(config: Config, rounds: Rounds, number: int, first: str) -> list[dict[str, Any]]:
    """Return the teachers of all earlier rounds as recorded ones; none where their rollouts count for nothing.

    Hinted rollouts are not among them: they show nothing about what a model solves, and the newer student is asked
    again where it solves nothing.
    """
    if rounds.data == "newest" and rounds.problems == "all":
        return []
    return [
        {
            "name": f"r{earlier}-{teacher['name']}",
            "model": teacher["model"],
            "license": teacher["license"],
            "engine": {"kind": "recorded", "run": _run_name(config, earlier, first), "teacher": teacher["name"]},
            "cpus": 1.0,
        }
        for earlier in range(1, number)
        for teacher in _live_teachers(config, rounds, earlier, first)
    ]
