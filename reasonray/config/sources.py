"""Sources of problems."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from reasonray.config.section import Change, Section


class _Licensed(Section):
    license: Annotated[str, Change.FREE] = ""
    """License of the problems as the hub names it (mit, cc-by-4.0), for the data set's card."""


class GeneratedSource(Section):
    """Seeded arithmetic in three difficulties, as many problems as wanted."""

    kind: Literal["generated"]
    name: str = "generated"
    """Name of the source in tables and in `curation.mix`. It is part of the identity of the source's problems."""
    difficulties: tuple[Literal["easy", "medium", "hard"], ...] = ("easy", "medium", "hard")
    """Difficulties to generate."""
    train: int = Field(300, ge=0)
    """Train problems in all, spread evenly over the difficulties."""
    test: int = Field(120, ge=0)
    """Test problems in all, spread evenly over the difficulties."""
    seed: int = 0
    """Seed of the generator."""


Gold = Literal["verbatim", "gsm8k", "boxed", "any", "all", "index", "number"]


class Columns(Section):
    """The columns of a table. A part of a column goes by its path: `reward_model.ground_truth`, `chat.0.content`."""

    question: str = "question"
    """Column of the question: a text, or a list of messages with one turn of the user."""
    answer: str = "answer"
    """Column of the gold answer."""
    difficulty: str | None = None
    """Column of the difficulty, by which the report groups problems."""
    checker: str | None = None
    """Column of the checker's name, where a source mixes several kinds of answers. It can name a checker of your own
    only if that is the source's `checker`."""
    metadata: dict[str, str] = Field(default_factory=dict)
    """Metadata that a checker reads → the column that holds it, such as `asserts = "test_list"`."""
    leave_out: tuple[str, ...] = ()
    """Columns that do not become metadata, such as the completions of a file that holds problems and completions."""


class FilesSource(_Licensed):
    """Files: JSON Lines, JSON, CSV or parquet."""

    kind: Literal["files"]
    name: str = "files"
    """Name of the source in tables and in `curation.mix`. It is part of the identity of the source's problems."""
    train: str | None = None
    """Path, glob or URI of the train file(s), relative to the working directory; by default none."""
    test: str | None = None
    """Path, glob or URI of the test file(s), relative to the working directory; by default none."""
    columns: Columns = Columns()
    """Names of the columns."""
    gold: Gold = "verbatim"
    """How the answer's column holds the gold answer. verbatim: all of its text. gsm8k: after `####`. boxed: in its
    `\\boxed{}`. any, all: several gold answers (a list, or a text with several boxes), of which an answer must state
    one, or each. index, number: the place of an option, the first being 0, or 1; the gold answer is its letter."""
    checker: str = "math_answer"
    """Checker of every problem that names no other; one of your own is named as `package.module:Name`."""
    checker_args: dict[str, Any] = Field(default_factory=dict)
    """Metadata for the checker, of every problem: `relative_tolerance`, `ordered`, `last_number`, …"""
    show_options: bool = False
    """Append the options of a choice to the question, a line each, with its letter."""
    unanswered: bool = False
    """Accept rows without a gold answer. Their rollouts are not judged, unless `checking.majority` stands in for the
    answer."""
    limit_train: int | None = Field(None, ge=0)
    """Train problems to take, from the start; by default all."""
    limit_test: int | None = Field(None, ge=0)
    """Test problems to take, from the start; by default all."""
    on_duplicate: Literal["error", "drop"] = "error"
    """error: refuse a problem that repeats another one. drop: leave it out; of a train and a test problem with the same
    question, leave out the train problem."""


class HubSource(_Licensed):
    """A data set of the Hugging Face hub."""

    kind: Literal["hub"]
    path: str
    """`owner/name` or `owner/name/config`."""
    name: str = ""
    """Name of the source in tables and in `curation.mix`; by default `path`. It is part of the identity of the source's
    problems."""
    revision: str | None = None
    """Branch, tag or commit of the data set."""
    train: str | None = "train"
    """Name of the split to distil from; "" for none."""
    test: str | None = "test"
    """Name of the split to evaluate on; "" for none."""
    columns: Columns = Columns()
    """Names of the columns."""
    gold: Gold = "verbatim"
    """How the answer's column holds the gold answer. verbatim: all of its text. gsm8k: after `####`. boxed: in its
    `\\boxed{}`. any, all: several gold answers (a list, or a text with several boxes), of which an answer must state
    one, or each. index, number: the place of an option, the first being 0, or 1; the gold answer is its letter."""
    checker: str = "math_answer"
    """Checker of every problem that names no other; one of your own is named as `package.module:Name`."""
    checker_args: dict[str, Any] = Field(default_factory=dict)
    """Metadata for the checker, of every problem: `relative_tolerance`, `ordered`, `last_number`, …"""
    show_options: bool = False
    """Append the options of a choice to the question, a line each, with its letter."""
    unanswered: bool = False
    """Accept rows without a gold answer. Their rollouts are not judged, unless `checking.majority` stands in for the
    answer."""
    limit_train: int | None = Field(None, ge=0)
    """Train problems to take, from the start; by default all."""
    limit_test: int | None = Field(None, ge=0)
    """Test problems to take, from the start; by default all."""
    on_duplicate: Literal["error", "drop"] = "error"
    """error: refuse a problem that repeats another one. drop: leave it out; of a train and a test problem with the same
    question, leave out the train problem."""


class GymSource(Section):
    """A procedural task of reasoning-gym."""

    kind: Literal["gym"]
    task: str
    """The task's name in reasoning-gym, such as `chain_sum`."""
    name: str = ""
    """Name of the source in tables and in `curation.mix`; by default `task`. It is part of the identity of the source's
    problems."""
    train: int = Field(300, ge=0)
    """Train problems."""
    test: int = Field(100, ge=0)
    """Test problems."""
    seed: int = 0
    """Seed of the generator."""
    args: dict[str, Any] = Field(default_factory=dict)
    """Arguments of the task, such as its difficulty."""


Source = Annotated[GeneratedSource | FilesSource | HubSource | GymSource, Field(discriminator="kind")]
