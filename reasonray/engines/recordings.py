"""Recorded completions: read once, and kept in a file that the system deletes with the process.

Only keys, places and counts stay in memory. What cannot be used is counted, with its first places.
"""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from operator import itemgetter
from typing import IO

import pyarrow.compute as pc
from pyarrow import fs

from reasonray.config import HubSource, RecordedEngine
from reasonray.engines.layouts import Layout, Recording, Unusable, id_of, layout_of, question_of, recordings_of
from reasonray.errors import UserError
from reasonray.problems import files, hub
from reasonray.problems.columns import Row
from reasonray.problems.notes import Notes
from reasonray.records import Finish, content_hash
from reasonray.store.ledger import Ledger
from reasonray.store.run import find_run
from reasonray.store.storage import place


@dataclass(frozen=True, slots=True)
class RecordedRow:
    """A row that holds completions."""

    location: str
    first: int
    """Number of its first completion among those of all rows."""
    count: int


@dataclass(slots=True, eq=False)
class Recordings:
    """The completions of a recording by the key of their problem: see `question_key` and `id_key`."""

    rows: dict[str, list[RecordedRow]] = field(default_factory=dict)
    num_rows: int = 0
    """Rows read, those without a completion included."""
    layouts: Counter[Layout] = field(default_factory=Counter)
    """Which columns were taken for what, by the number of rows."""
    notes: Notes = field(default_factory=Notes)
    """What cannot be used."""
    columns: tuple[str, ...] = ()
    """Names of the first row's columns."""
    identity: str = ""
    """Hash of all keys and completions, in order."""
    longest: int = 0
    """Tokens of the longest completion."""
    _file: IO[bytes] = field(default_factory=tempfile.TemporaryFile)
    _ends: array[int] = field(default_factory=lambda: array("q", [0]))
    """Where each completion ends in the file, after a 0."""
    _tokens: array[int] = field(default_factory=lambda: array("q"))
    """-1 where they are not known."""
    _cut: bytearray = field(default_factory=bytearray)
    _openings: dict[int, str] = field(default_factory=dict)
    """Number of a completion → its opening; few have one."""

    @property
    def num_completions(self) -> int:
        """The number of completions that can be used."""
        return len(self._tokens)

    def numbers(self, key: str) -> list[int]:
        """Return the numbers of the completions under a key, in order."""
        return [row.first + offset for row in self.rows.get(key, ()) for offset in range(row.count)]

    def recording(self, number: int) -> Recording:
        """Return a completion by its number."""
        begin, end = self._ends[number], self._ends[number + 1]
        text = os.pread(self._file.fileno(), end - begin, begin).decode()
        tokens = self._tokens[number]
        finish = Finish.LENGTH if self._cut[number] else Finish.STOP
        return Recording(text, finish, None if tokens < 0 else tokens, self._openings.get(number, ""))

    def add(self, recording: Recording) -> bytes:
        """Append a completion, and return what of it counts for the identity."""
        encoded = recording.text.encode()
        if recording.opening:
            self._openings[self.num_completions] = recording.opening
        self._file.write(encoded)
        self._ends.append(self._ends[-1] + len(encoded))
        self._tokens.append(-1 if recording.tokens is None else recording.tokens)
        self._cut.append(recording.finish is Finish.LENGTH)
        self.longest = max(self.longest, recording.estimated_tokens)
        return recording.finish.value.encode() + encoded


def question_key(question: str) -> str:
    """Return the key of a question: its words, whatever their case and the spacing."""
    return content_hash("question", " ".join(unicodedata.normalize("NFC", question).casefold().split()))


def id_key(identity: str) -> str:
    """Return the key of an id."""
    return content_hash("id", identity)


def read_recordings(config: RecordedEngine) -> Recordings:
    """Read all rows of a recording; the same files are read once in a process.

    Raises:
        UserError: files or data set cannot be read, or no row holds a completion.
    """
    return _read(config.model_dump_json(), _stamps(config))


def _stamps(config: RecordedEngine) -> tuple[tuple[str, int | None, int | None], ...]:
    """Return path, size and time of each file; of a run the names of its segments."""
    if config.run:
        return tuple((segment.path, None, None) for segment in _ledger(config).segments())
    found = files.matching(config.files, "recorded") if config.files else []
    infos: list[fs.FileInfo] = [file.filesystem.get_file_info(file.path) for file in found]
    return tuple((info.path, info.size, info.mtime_ns) for info in infos)


@lru_cache(maxsize=1)
def _read(config_json: str, stamps: object) -> Recordings:
    config = RecordedEngine.model_validate(json.loads(config_json))
    if config.run:
        return _read_run(config)
    recordings, hasher = Recordings(), blake2b(digest_size=10)
    for location, row in rows_of(config):
        recordings.num_rows += 1
        names = tuple(map(str, row))
        recordings.columns = recordings.columns or names
        layout = layout_of(config.columns, names)
        try:
            key = id_key(id_of(row, layout)) if layout.id else question_key(question_of(row, layout, location))
        except Unusable as reason:
            recordings.notes.add(f"rows {reason}, left out", location)
            continue
        first = recordings.num_completions
        for recording in recordings_of(row, layout):
            if isinstance(recording, Unusable):
                recordings.notes.add(f"rows or completions {recording}, left out", location)
                continue
            for part in (key.encode(), recordings.add(recording)):
                hasher.update(len(part).to_bytes(8) + part)
        if count := recordings.num_completions - first:
            recordings.rows.setdefault(key, []).append(RecordedRow(location, first, count))
            recordings.layouts[layout] += 1
    recordings._file.flush()
    recordings.identity = hasher.hexdigest()
    if not recordings.num_completions:
        raise _nothing(config, recordings)
    return recordings


def _ledger(config: RecordedEngine) -> Ledger:
    return Ledger(place(config.run) / "rollouts")


_RUN_COLUMNS = (
    "problem_id",
    "teacher",
    "sample",
    "finish",
    "opening",
    "completion",
    "completion_tokens",
    "tokens_estimated",
)


def _read_run(config: RecordedEngine) -> Recordings:
    """Read a teacher's rollouts from another run, segment by segment, without those on which its engine failed.

    Sample i of a problem is the i-th of them by sample, and the identity is a sum of hashes: both stay the same when
    the ledger is compacted.
    """
    recordings, total = Recordings(columns=_RUN_COLUMNS), 0
    samples: dict[str, list[tuple[int, RecordedRow]]] = {}
    for table in _ledger(config).tables(_RUN_COLUMNS):
        own = table.filter(pc.equal(table["teacher"], config.teacher))
        for row in own.filter(pc.not_equal(own["finish"], Finish.ERROR.value)).to_pylist():
            key, sample, first = id_key(row["problem_id"]), row["sample"], recordings.num_completions
            tokens = None if row["tokens_estimated"] else row["completion_tokens"]
            counted = recordings.add(Recording(row["completion"], Finish(row["finish"]), tokens, row["opening"]))
            total += int(content_hash(key, sample, row["opening"], counted.decode()), 16)
            location = f"{config.run}, sample {sample} of {row['problem_id']}"
            samples.setdefault(key, []).append((sample, RecordedRow(location, first, 1)))
    if not samples and config.teacher not in (teachers := [one.name for one in find_run(config.run).config.teachers]):
        raise UserError(f"run {config.run} has no teacher {config.teacher}; it has {', '.join(teachers) or 'none'}")
    recordings.rows = {key: [row for _, row in sorted(rows, key=itemgetter(0))] for key, rows in samples.items()}
    recordings.num_rows = recordings.num_completions
    recordings.identity = f"{total % (1 << 80):020x}"
    recordings._file.flush()
    return recordings


def rows_of(config: RecordedEngine) -> Iterator[Row]:
    """Yield the rows of a recording, each with its location.

    Raises:
        UserError: files or data set cannot be read.
    """
    wanted = [name for name in config.columns.model_dump().values() if name]
    if config.files:
        return files.read_rows(config.files, "recorded", wanted)
    source = HubSource(kind="hub", path=config.hub, revision=config.revision)
    return hub.read_split(source, config.split, "recorded", wanted, Notes())


def _nothing(config: RecordedEngine, recordings: Recordings) -> UserError:
    """Return the error for a recording of which no row can be used."""
    faults = "; ".join(line.strip() for line in recordings.notes.lines()) or "it has no rows"
    there_are = f" (there are {', '.join(recordings.columns)})"[:300] if recordings.columns else ""
    return UserError(
        f"{config.origin()} holds no completion that can be used: {faults}; "
        f"name the columns in engine.columns: question or id, and completion{there_are}"
    )
