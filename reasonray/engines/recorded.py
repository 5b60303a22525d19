"""An engine that answers with recorded completions: sample i of a problem is its i-th one.

Rows are matched to problems by the text of the question, as it is or as the teacher's prompt puts it, or by an id.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import numpy as np

from reasonray.config import Prompt, RecordedEngine
from reasonray.config.models import Asking
from reasonray.engines.protocol import Completion, Heartbeat, SampleRequest, Supply
from reasonray.engines.recordings import id_key, question_key, read_recordings
from reasonray.problems.notes import Notes
from reasonray.prompts import messages
from reasonray.records import Finish, Problem


class Recorded:
    """A running engine without a model."""

    def __init__(self, config: RecordedEngine) -> None:
        """Read the recordings.

        Raises:
            UserError: they cannot be read.
        """
        self.capacity = config.max_num_seqs
        self._column = _id_column(config)
        self._recordings = read_recordings(config)

    async def complete(self, request: SampleRequest) -> Completion:
        """Return a recorded completion, an ERROR if there is none of this index."""
        keys = _keys(request.problem, self._column, request.prompt)
        numbers = [number for key in keys for number in self._recordings.numbers(key)]
        if request.sample >= len(numbers):
            reason = f"there are {len(numbers)} recorded completions of this problem"
            return Completion("", Finish.ERROR, error=reason)
        recording = self._recordings.recording(numbers[request.sample])
        return Completion(
            recording.text,
            recording.finish,
            completion_tokens=recording.estimated_tokens,
            opening=recording.opening,
            tokens_estimated=recording.tokens is None,
        )

    async def swap(self, model: Path) -> bool:
        """Return True: without weights, any model will do."""
        return True

    def heartbeat(self) -> Heartbeat:
        """Return that the engine is alive and has generated nothing."""
        return Heartbeat(0, time.monotonic())

    def close(self) -> None:
        """Do nothing: the file goes with the process."""


def supply(config: RecordedEngine, asking: Asking, problems: Sequence[Problem], others: Sequence[Problem]) -> Supply:
    """Return how many recorded completions each problem has.

    Args:
        config: the engine's section.
        asking: of the teacher; its prompts may be part of the recorded questions.
        problems: to be sampled.
        others: further problems of the run, which are not to be sampled: the held-out ones.

    Raises:
        UserError: the recordings cannot be read.
    """
    recordings, column = read_recordings(config), _id_column(config)
    keys = [_keys(problem, column, asking.prompt(problem.source, 0)) for problem in problems]
    owners = Counter(key for of_problem in keys for key in of_problem)
    elsewhere = {key for problem in others for key in _keys(problem, column, asking.prompt(problem.source, 0))}
    samples, used = np.zeros(len(problems), np.int32), set[str]()
    for index, of_problem in enumerate(keys):
        # The engine gives a problem's completions in the order of its keys, so nothing behind a shared key counts.
        for key in takewhile(lambda key: owners[key] == 1 or key not in recordings.rows, of_problem):
            samples[index] += len(recordings.numbers(key))
            used.add(key)
    notes = Notes()
    for key, rows in recordings.rows.items():
        if key not in used:
            remark = "of held-out problems" if key in elsewhere else "that match no problem"
            for row in rows:
                notes.add(f"rows {'that match two problems' if owners[key] else remark}, left out", row.location)
    by = f"column {column}" if column else "the question"
    num_rows = sum(len(recordings.rows.get(key, ())) for key in used)
    matched = np.count_nonzero(samples)
    line = f"{samples.sum():>7,} recorded completions in {num_rows:,} rows, of {matched:,} problems, by {by}"
    cure = f"set engine.columns, or look with `reasonray import {config.origin()}`"
    return Supply(samples, (line, *notes.lines(), *recordings.notes.lines()), cure)


def _id_column(config: RecordedEngine) -> str | None:
    """Return the column that holds the problem's id; None if rows are matched by their question."""
    return "problem_id" if config.run else config.columns.id


def _keys(problem: Problem, column: str | None, prompt: Prompt) -> list[str]:
    """Return the keys under which a problem's completions may be recorded."""
    if column is None:
        return list(
            dict.fromkeys(map(question_key, (messages(prompt, problem.question)[-1]["content"], problem.question)))
        )
    ids = [problem.id] + ([str(problem.metadata[column])] if problem.metadata.get(column) is not None else [])
    return list(dict.fromkeys(map(id_key, ids)))
