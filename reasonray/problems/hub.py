"""Problems from a data set of the Hugging Face hub, or from a local directory laid out like one."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from reasonray.config import HubSource
from reasonray.errors import UnreachableError, UserError
from reasonray.problems.arrow import rows_of_table
from reasonray.problems.columns import Row, mapped_columns, problem_of
from reasonray.problems.notes import Notes
from reasonray.records import Problem, Split

_BATCH = 1024


def load(source: HubSource, notes: Notes | None = None) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with its location.

    Raises:
        UserError: the data set or a split does not exist, or a row has no question or no readable answer.
    """
    name = source.name or source.path
    notes = Notes() if notes is None else notes
    wanted = mapped_columns(source)
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    problems = []
    for split, part, limit in parts:
        if not part:
            continue
        for location, row in islice(read_split(source, part, name, wanted, notes), limit):
            problems.append((problem_of(row, location, source, name, split, notes), location))
    return problems


def read_split(source: HubSource, part: str, name: str, wanted: Collection[str], notes: Notes) -> Iterator[Row]:
    """Yield the rows of a split, each with its location. As Arrow tables, so that no picture or sound is decoded.

    Args:
        source: names the data set.
        part: the split.
        name: the source's name in messages.
        wanted: the columns that must be there as texts if they are there at all, such as dates.
        notes: takes the columns that are left out, because JSON could not hold their values.

    Raises:
        UserError: the data set or the split does not exist.
    """
    number = 0
    for table in _dataset(source, part).with_format("arrow").iter(_BATCH):
        first = f"{source.path}, {part} row {number}"
        for row in rows_of_table(table, wanted, name, first, notes):
            yield f"{source.path}, {part} row {number}", row
            number += 1


def _dataset(source: HubSource, part: str) -> Any:
    try:
        from datasets import Features, Value, exceptions, load_dataset
    except ImportError:
        raise UserError("sources of kind hub need the `hub` extra: pip install 'reasonray[hub]'") from None
    path, config = source.path, None
    if not Path(path).is_dir() and path.count("/") > 1:
        owner, repository, config = path.split("/", 2)
        path = f"{owner}/{repository}"
    where = {"name": config, "split": part, "revision": source.revision}
    try:
        loaded = load_dataset(path, **where)
        if loaded.info.builder_name == "csv":  # which has guessed types: 00714 became 714
            texts = Features({name: Value("string") for name in loaded.column_names})
            return load_dataset(path, **where, features=texts, keep_default_na=False)
        return loaded
    except exceptions.DatasetGenerationError as error:
        raise UserError(f"data set {source.path}, split {part}: {_line(error.__cause__ or error)}") from None
    except (exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise (UnreachableError if isinstance(error, ConnectionError) else UserError)(
            f"data set {source.path}: cannot be loaded ({_line(error)}); check name, network, access"
        ) from None
    except (ValueError, KeyError) as error:  # an unknown split or configuration; the message lists the known ones
        raise UserError(f"data set {source.path}, split {part}: {_line(error)}") from None


def _line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]
