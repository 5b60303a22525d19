"""An append-only ledger of finished rollouts: the point of resume.

A commit writes an immutable parquet segment, then a small JSON manifest that names it. What no manifest names does not
exist, so a writer may die at any moment. Two writers never touch the same file. A rollout that was committed twice (a
lease ran again after its replica died between commit and report) is read once.

    <place>/segments/<name>.parquet
    <place>/manifest/<name>.json

Many small segments are compacted into few: a merged manifest (<name>.merged.json) lists the segments that it replaces,
which do not count from then on, whether they are deleted yet or not. Names sort in order of commit; a merged segment
takes the place of the first that it replaces, so that what was committed first stays first.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.records import JUDGED, Finish, Outcome, Rollout
from reasonray.store.schema import (
    ROLLOUT_SCHEMA,
    SCHEMA_VERSION,
    refuse_newer,
    rollouts_to_table,
    schema_version,
    select_columns,
    stored_columns,
)
from reasonray.store.storage import Place

T = TypeVar("T")
Numbers = npt.NDArray[np.int64]

_READERS = 8
"""Segments that are read at the same time: an object store answers slowly, but many at once."""
_ROW_GROUP = 64 << 20
"""Bytes in memory after which a merge writes what it has read."""
_ENCODED = ["problem_id", "fingerprint", "verdict_outcome", "finish"]
_TALLIED = [*_ENCODED, "sample", "resample", "completion_tokens"]


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """What is already drawn of one problem under one fingerprint."""

    samples: frozenset[int] = frozenset()
    """Sample indices that are committed."""
    correct: int = 0
    tokens: int = 0
    """Completion tokens of all of them."""
    truncated: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Samples that the token limit cut → (round, completion tokens)."""
    judged: int = 0
    """Samples whose outcome says something of the teacher: correct, wrong, no answer or truncated."""


@dataclass(frozen=True)
class Ledger:
    """The committed rollouts below one place."""

    place: Place

    def append(self, rollouts: Sequence[Rollout]) -> str:
        """Commit rollouts as one segment and return its name. Nothing is visible before all is."""
        return self.append_table(rollouts_to_table(rollouts))

    def append_table(self, table: pa.Table) -> str:
        """Commit a table of ROLLOUT_SCHEMA as one segment and return its name."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._commit(name, sink.getvalue(), table.num_rows)
        return name

    def _commit(self, name: str, content: pa.Buffer, rows: int, **facts: Any) -> None:
        self._segment(name).write(content)
        manifest = {
            "segment": f"{name}.parquet",
            "rows": rows,
            "bytes": content.size,
            "schema": SCHEMA_VERSION,
            **facts,
        }
        self._manifest(name).write(json.dumps(manifest).encode())

    def segments(self) -> list[Place]:
        """Return the committed segment files in order of commit.

        Raises:
            UserError: one is of a newer version of the schema; so does all that reads segments.
        """
        return self._settled(
            lambda names: [self.place / "segments" / manifest["segment"] for manifest in self._manifests(names)]
        )

    def count(self) -> int:
        """Return how many rollouts are committed, by the manifests alone: superseded and doubled ones count too."""
        return sum(manifest["rows"] for manifest in self._settled(self._manifests))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the committed rollouts, each id once, of ROLLOUT_SCHEMA or of the columns named."""
        wanted = list(columns) if columns is not None else ROLLOUT_SCHEMA.names
        schema = pa.schema([ROLLOUT_SCHEMA.field(name) for name in wanted], metadata=ROLLOUT_SCHEMA.metadata)
        reading = list(dict.fromkeys(["id", "resample", *wanted]))
        parts = self._settled(lambda names: _in_threads(lambda name: self._load(name, reading), names))
        if not parts:
            return schema.empty_table()
        return _newest_of_each_id(pa.concat_tables(parts)).select(wanted).cast(schema)

    def stored_samples(self, problems: Collection[str] | None = None) -> dict[tuple[str, str], StoredSamples]:
        """Return what is drawn, by (problem id, fingerprint), of all problems or of those whose ids are given.

        Reads narrow columns only, never text, and keeps some 40 bytes a rollout while it counts.
        """
        wanted = None if problems is None else pa.array(problems, pa.string())

        def condensed(name: str) -> pa.Table:
            table = self._load(name, _TALLIED, _ENCODED)
            return _condensed(table if wanted is None else table.filter(pc.is_in(table["problem_id"], wanted)))

        parts = [it for it in self._settled(lambda names: _in_threads(condensed, names)) if it.num_rows]
        return _tallies(pa.concat_tables(parts)) if parts else {}

    def compact(self, *, target_bytes: int = 64 << 20, least: int = 32) -> int:
        """Merge small neighbours into larger segments, and return how many were; below `least` small ones none are.

        Every row stays, superseded rounds too; only a row that was committed twice stands once. May be killed at any
        moment, and may run beside writers and readers (but not beside another compaction). Holds one merged segment,
        compressed, and one row group in memory.
        """
        self._sweep()
        names = self._standing(self._listed())
        sizes = [(name, int(manifest["bytes"])) for name, manifest in zip(names, self._manifests(names), strict=True)]
        if sum(size < target_bytes // 2 for _, size in sizes) < least:
            return 0
        groups = [group for group in _groups(sizes, target_bytes) if len(group) > 1]
        for group in groups:
            content, rows = self._merged(group)
            name = f"{group[0].partition('-')[0]}-{uuid.uuid4().hex[:8]}.merged"
            self._commit(name, content, rows, replaces=group)
        self._sweep()
        return sum(map(len, groups))

    def _merged(self, names: Sequence[str]) -> tuple[pa.Buffer, int]:
        """Return the rows of segments as one, and how many these are."""
        first = _first_of_each_round(pa.concat_tables([self._load(name, ["id", "resample"]) for name in names]))
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, ROLLOUT_SCHEMA, compression="zstd") as writer:
            for rows in _row_groups(self._load(name).cast(ROLLOUT_SCHEMA) for name in names):
                writer.write_table(rows.filter(pa.array(first[: rows.num_rows])))
                first = first[rows.num_rows :]
        content = sink.getvalue()
        return content, pq.read_metadata(pa.BufferReader(content)).num_rows

    def _sweep(self) -> None:
        """Delete what is replaced: manifests before segments, so that none names a segment that is not there."""
        listed = self._listed()
        replaced = self._replaced(listed)
        for name in listed:
            if name in replaced:
                self._manifest(name).delete()
        if replaced:
            stored = {segment.name.removesuffix(".parquet") for segment in (self.place / "segments").list(".parquet")}
            for name in sorted(replaced & stored):
                self._segment(name).delete()

    def _settled(self, act: Callable[[list[str]], T]) -> T:
        """Return what comes of the names of the committed segments, once no compaction beside removes any of them."""
        while True:
            listed = self._listed()
            try:
                return act(self._standing(listed))
            except FileNotFoundError:
                if self._listed() == listed:  # no compaction has been here: a committed segment is lost
                    raise

    def _listed(self) -> list[str]:
        """Return the names of all manifests, in order.

        A listing takes time. What was replaced and deleted meanwhile may be missing from it, and the merged manifest
        too, if that is younger than the listing; so it counts once the next one holds no other merged manifests.
        """
        merged: list[str] | None = None
        while True:
            listed = [manifest.name.removesuffix(".json") for manifest in (self.place / "manifest").list(".json")]
            before, merged = merged, [name for name in listed if name.endswith(".merged")]
            if merged == before:
                return listed

    def _standing(self, listed: Sequence[str]) -> list[str]:
        replaced = self._replaced(listed)
        return [name for name in listed if name not in replaced]

    def _replaced(self, listed: Sequence[str]) -> set[str]:
        merged = self._manifests([name for name in listed if name.endswith(".merged")])
        return {name for manifest in merged for name in manifest["replaces"]}

    def _manifests(self, names: Sequence[str]) -> list[dict[str, Any]]:
        manifests = _in_threads(lambda name: self._manifest(name).read_json(), names)
        for manifest in manifests:
            refuse_newer(manifest["schema"], manifest["segment"])
        return manifests

    def _manifest(self, name: str) -> Place:
        return self.place / "manifest" / f"{name}.json"

    def _segment(self, name: str) -> Place:
        return self.place / "segments" / f"{name}.parquet"

    def _load(self, name: str, columns: Sequence[str] | None = None, encoded: Sequence[str] = ()) -> pa.Table:
        segment = self._segment(name)
        with pq.ParquetFile(
            segment.path, filesystem=segment.filesystem, read_dictionary=list(encoded), pre_buffer=True
        ) as file:
            refuse_newer(schema_version(file.schema_arrow), segment.name)
            names = columns or ROLLOUT_SCHEMA.names
            found = file.read(columns=stored_columns(names, file.schema_arrow), use_threads=False)
        return select_columns(found, names)


def _in_threads(work: Callable[[str], T], names: Sequence[str]) -> list[T]:
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(work, names))


def _groups(sizes: Sequence[tuple[str, int]], target: int) -> list[list[str]]:
    """Put neighbours together up to a size; one that is large already stays alone, and between its neighbours."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes:
        large = size >= target // 2
        if not groups or large or size > room:
            groups.append([])
            room = target
        groups[-1].append(name)
        room = 0 if large else room - size
    return groups


def _row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Put tables together up to a size in memory."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= _ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def _codes(column: pa.ChunkedArray) -> tuple[pa.Array, Numbers]:
    """Return the distinct values of a dictionary-encoded column, and for every row the index of its value."""
    whole = column.unify_dictionaries().combine_chunks()
    return whole.dictionary, whole.indices.to_numpy()


def _newest(identities: Numbers, rounds: Numbers) -> Numbers:
    """Return the row of the highest round of each identity, the first of those, in order of identities."""
    order = np.lexsort((-rounds, identities))  # stable
    first: npt.NDArray[np.bool_] = np.diff(identities[order], prepend=-1) != 0
    return np.asarray(order[first])


def _newest_of_each_id(table: pa.Table) -> pa.Table:
    _, ids = _codes(table["id"].dictionary_encode())
    newest = _newest(ids, table["resample"].to_numpy())
    return table if len(newest) == table.num_rows else table.filter(_mask(newest, table.num_rows))


def _first_of_each_round(table: pa.Table) -> npt.NDArray[np.bool_]:
    """Say of every row whether it is the first with its id and round."""
    _, ids = _codes(table["id"].dictionary_encode())
    rounds = table["resample"].to_numpy().astype(np.int64)
    keys = ids * (rounds.max(initial=0) + 1) + rounds
    return _mask(np.unique(keys, return_index=True)[1], table.num_rows)


def _mask(rows: Numbers, count: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(count, np.bool_)
    mask[rows] = True
    return mask


def _condensed(table: pa.Table) -> pa.Table:
    """Return what a tally wants to know of rollouts: the encoded ids, and numbers."""
    outcome = table["verdict_outcome"]
    return pa.table(
        {
            "problem": table["problem_id"],
            "fingerprint": table["fingerprint"],
            "sample": table["sample"],
            "resample": table["resample"],
            "tokens": table["completion_tokens"],
            "correct": pc.equal(outcome, Outcome.CORRECT.value),
            "judged": pc.is_in(outcome, value_set=pa.array([it.value for it in JUDGED])),
            "cut": pc.equal(table["finish"], Finish.LENGTH.value),
        }
    )


def _tallies(condensed: pa.Table) -> dict[tuple[str, str], StoredSamples]:
    problems, problem = _codes(condensed["problem"])
    fingerprints, fingerprint = _codes(condensed["fingerprint"])
    group = problem.astype(np.int64) * len(fingerprints) + fingerprint
    sample = condensed["sample"].to_numpy()
    newest = _newest(group * (int(sample.max()) + 1) + sample, condensed["resample"].to_numpy())
    drawn = condensed.drop_columns(["problem", "fingerprint"]).append_column("group", pa.array(group)).take(newest)
    group = drawn["group"].to_numpy()
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    groups = group[starts]
    samples, cut = _sample_sets(drawn["sample"].to_numpy(), starts), _cut(drawn.filter(drawn["cut"]))
    correct, tokens, judged = (
        np.add.reduceat(drawn[name].to_numpy(), starts, dtype=np.int64).tolist()
        for name in ("correct", "tokens", "judged")
    )
    tallies = map(StoredSamples, samples, correct, tokens, [cut.get(it, {}) for it in groups.tolist()], judged)
    of_problem = problems.take(groups // len(fingerprints)).to_pylist()
    of_fingerprint = fingerprints.take(groups % len(fingerprints)).to_pylist()
    return dict(zip(zip(of_problem, of_fingerprint, strict=True), tallies, strict=True))


def _sample_sets(sample: Numbers, starts: Numbers) -> list[frozenset[int]]:
    """Return the samples of each group, given where the groups start."""
    alike: dict[bytes, frozenset[int]] = {}  # most problems have the same samples: one set serves them all
    sets = []
    for start, end in pairwise([*starts.tolist(), len(sample)]):
        indices = sample[start:end]
        drawn = indices.tobytes()
        if drawn not in alike:
            alike[drawn] = frozenset(indices.tolist())
        sets.append(alike[drawn])
    return sets


def _cut(drawn: pa.Table) -> dict[int, dict[int, tuple[int, int]]]:
    """Return the round and the tokens of samples that were cut, by group and sample."""
    cut: defaultdict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    names = ("group", "sample", "resample", "tokens")
    for group, sample, resample, tokens in zip(*(drawn[name].to_pylist() for name in names), strict=True):
        cut[group][sample] = (resample, tokens)
    return cut
