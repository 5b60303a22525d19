"""Where problems come from (problems/)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from reasonray.config.section import Section


class _Licensed(Section):
    license: str = ""
    """Of the problems, as the hub names licenses (mit, cc-by-4.0); the card says so."""


class GeneratedSource(Section):
    """Seeded arithmetic in three difficulties, as many problems as wanted (problems/generated.py)."""

    kind: Literal["generated"]
    name: str = "generated"
    difficulties: tuple[Literal["easy", "medium", "hard"], ...] = ("easy", "medium", "hard")
    train: int = Field(300, ge=0)
    """Train problems in all, dealt evenly to the difficulties."""
    test: int = Field(120, ge=0)
    seed: int = 0


class Columns(Section):
    """Which column of a table holds what."""

    question: str = "question"
    answer: str = "answer"
    difficulty: str | None = None
    checker: str | None = None
    """Column with the checker's name, where a source mixes kinds."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """What a checker asks of the metadata → the column that holds it, such as `asserts = "test_list"`."""


class FilesSource(_Licensed):
    """JSON Lines, JSON, CSV or parquet files (problems/files.py)."""

    kind: Literal["files"]
    name: str = "files"
    train: str | None = None
    """Path, glob or URI of the train file(s), "" for none; relative to the working directory."""
    test: str | None = None
    columns: Columns = Columns()
    checker: str = "math_answer"
    checker_args: dict[str, Any] = Field(default_factory=dict)
    """What the checker needs beside the answer, for every problem: `relative_tolerance`, `ordered`, `last_number`, …"""
    unanswered: bool = False
    """Rows may lack a gold answer: nothing of them is judged, unless checking.majority stands in for it."""
    limit_train: int | None = Field(None, ge=0)
    limit_test: int | None = Field(None, ge=0)
    on_duplicate: Literal["error", "drop"] = "error"


class HubSource(_Licensed):
    """A data set of the Hugging Face hub: `owner/name` or `owner/name/config` (problems/hub.py)."""

    kind: Literal["hub"]
    path: str
    name: str = ""
    revision: str | None = None
    train: str | None = "train"
    """Name of the split to distil from, "" for none; so with test."""
    test: str | None = "test"
    columns: Columns = Columns()
    gold: Literal["verbatim", "gsm8k", "boxed"] = "verbatim"
    """How the gold answer stands in its column: as it is, after `####`, or in the last `\\boxed{}`."""
    checker: str = "math_answer"
    checker_args: dict[str, Any] = Field(default_factory=dict)
    """What the checker needs beside the answer, for every problem: `relative_tolerance`, `ordered`, `last_number`, …"""
    unanswered: bool = False
    """Rows may lack a gold answer: nothing of them is judged, unless checking.majority stands in for it."""
    limit_train: int | None = Field(None, ge=0)
    limit_test: int | None = Field(None, ge=0)
    on_duplicate: Literal["error", "drop"] = "error"


class GymSource(Section):
    """A procedural task of reasoning-gym (problems/gym.py)."""

    kind: Literal["gym"]
    task: str
    name: str = ""
    train: int = Field(300, ge=0)
    test: int = Field(100, ge=0)
    seed: int = 0
    args: dict[str, Any] = Field(default_factory=dict)


Source = Annotated[GeneratedSource | FilesSource | HubSource | GymSource, Field(discriminator="kind")]
