"""Problems from a data set of the Hugging Face hub, or from a local directory laid out like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonray.answers import after_hashes, last_boxed
from reasonray.config import HubSource
from reasonray.errors import UserError
from reasonray.problems.files import problem_of
from reasonray.records import Problem, Split


def load(source: HubSource) -> list[tuple[Problem, str]]:
    """Return the problems of a source, each with its location.

    Raises:
        UserError: the data set or a split does not exist, or a row has no question or no readable answer.
    """
    name = source.name or source.path
    parts = ((Split.TRAIN, source.train, source.limit_train), (Split.TEST, source.test, source.limit_test))
    problems = []
    for split, part, limit in parts:
        if not part:
            continue
        rows = _rows(source, part)
        wanted = len(rows) if limit is None else min(limit, len(rows))
        for number, row in enumerate(rows.select(range(wanted))):
            location = f"{source.path}, {part} row {number}"
            if (text := row.get(source.columns.answer)) is not None:
                row = {**row, source.columns.answer: gold(text, source.gold, location)}
            problems.append((problem_of(row, location, source, name, split), location))
    return problems


def gold(text: Any, form: str, location: str) -> str:
    """Return the gold answer of a column's text.

    Args:
        text: the column's value.
        form: verbatim, gsm8k (after `####`) or boxed (in the last `\\boxed{}`).
        location: data set and row, for messages.

    Raises:
        UserError: the text has no answer of that form.
    """
    if form == "verbatim":
        return str(text)
    answer = after_hashes(str(text)) if form == "gsm8k" else last_boxed(str(text))
    if answer is None:
        sign = "####" if form == "gsm8k" else r"\boxed{}"
        raise UserError(f"{location}: no {sign} in the answer; set gold to the form that the answers have")
    return answer.replace(",", "") if form == "gsm8k" else answer


def _rows(source: HubSource, part: str) -> Any:
    try:
        from datasets import exceptions, load_dataset
    except ImportError:
        raise UserError("sources of kind hub need the `hub` extra: pip install 'reasonray[hub]'") from None
    path, config = source.path, None
    if not Path(path).is_dir() and path.count("/") > 1:
        owner, repository, config = path.split("/", 2)
        path = f"{owner}/{repository}"
    try:
        return load_dataset(path, config, split=part, revision=source.revision)
    except (exceptions.DatasetNotFoundError, FileNotFoundError, ConnectionError) as error:
        raise UserError(
            f"data set {source.path}: cannot be loaded ({_line(error)}); check name, network, access"
        ) from None
    except (ValueError, KeyError) as error:  # an unknown split or configuration; the message lists the known ones
        raise UserError(f"data set {source.path}, split {part}: {_line(error)}") from None


def _line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
