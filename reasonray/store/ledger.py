"""An append-only ledger of finished rollouts: the point from which sampling resumes.

A commit writes an immutable parquet segment, then a small JSON manifest that names it. Segments without a manifest are
ignored, so a writer can crash at any point. Two writers never touch the same file. A rollout that was committed twice
(its lease ran again because the replica died between commit and report) is read once.

    <place>/segments/<name>.parquet
    <place>/tallies/<name>              of large segments (tally.py)
    <place>/manifest/<name>.json        rows, bytes, schema version, counts, tally; written last

Compaction merges many small segments into few. A merged manifest (<name>.merged.json) lists the segments that it
replaces. From then on these are ignored, whether or not they are deleted yet. Names sort in order of commit. A merged
segment takes the position of the first segment that it replaces, so the rollout that was committed first stays first.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.records import Rollout, content_hash
from reasonray.store.compaction import MIN_SEGMENTS, TARGET_BYTES, merge_groups, row_groups
from reasonray.store.duplicates import is_first_of_resample, is_newest_of_id
from reasonray.store.sample_arrays import SampleArrays, sample_arrays
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
from reasonray.store.tally import (
    INLINE_ROWS,
    TALLIED_COLUMNS,
    CommittedCounts,
    CountsByTeacher,
    Tally,
    counts_of,
    counts_of_json,
    counts_to_json,
    tally_of,
)

T = TypeVar("T")

_READERS = 8
"""Segments that are read at the same time."""
_REQUESTS = 32
"""Small files of an object store that are read at the same time: its latency is high, but it serves many at once."""
_TALLIES_AT_ONCE = 1000
_TRIED = 16
"""Small files of a directory that are read one after the other, to see whether each has to be waited for."""
_WORTH_A_THREAD = 2e-4
"""Seconds of waiting for a small file from which on threads read faster; below, they wait for each other."""


@dataclass(frozen=True)
class Ledger:
    """The committed rollouts below one place."""

    place: Place

    def append(self, rollouts: Sequence[Rollout]) -> str:
        """Commit rollouts as one segment and return its name. Readers see all of them or none."""
        return self.append_table(rollouts_to_table(rollouts))

    def append_table(self, table: pa.Table) -> str:
        """Commit a table of ROLLOUT_SCHEMA as one segment and return its name."""
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._commit(name, sink.getvalue(), select_columns(table, TALLIED_COLUMNS))
        return name

    def _commit(self, name: str, content: pa.Buffer, tallied: pa.Table, **facts: Any) -> None:
        """Write a segment, its tally, and last its manifest.

        Args:
            name: of the segment.
            content: of the segment.
            tallied: TALLIED_COLUMNS of its rows.
            facts: further entries of the manifest.
        """
        self._segment(name).write(content)
        tally = tally_of(tallied)
        packed = tally.content()
        is_inline = tallied.num_rows <= INLINE_ROWS
        if not is_inline:
            self._tally(name).write(packed)
        manifest = {
            "segment": f"{name}.parquet",
            "rows": tallied.num_rows,
            "bytes": content.size,
            "schema": SCHEMA_VERSION,
            "counts": counts_to_json(counts_of(tallied)),
            "tally": tally.to_json(packed if is_inline else None),
            **facts,
        }
        self._manifest(name).write(json.dumps(manifest).encode())

    def segments(self) -> list[Place]:
        """Return the committed segment files in order of commit.

        Raises:
            UserError: a segment has a newer schema version. Every method that reads segments raises this.
        """
        return self._with_current(
            lambda names: [self.place / "segments" / manifest["segment"] for manifest in self._read_manifests(names)]
        )

    def count(self) -> int:
        """Return how many rollouts are committed, from the manifests alone; duplicates and older resamples count."""
        return sum(manifest["rows"] for manifest in self._with_current(self._read_manifests))

    def counts(self) -> CountsByTeacher:
        """Return the counts of what is committed by teacher and fingerprint, from the manifests.

        A sample that was generated again counts each time, and so does a rollout that was committed twice.
        """
        total: CountsByTeacher = {}
        for counts in self._with_current(lambda names: self._each(self._read_counts, names)):
            for key, committed in counts.items():
                total.setdefault(key, CommittedCounts()).add(committed)
        return total

    def sample_arrays(self, problem_ids: Sequence[str] | pa.Array) -> dict[str, SampleArrays]:
        """Return the stored samples of problems by fingerprint, as arrays; fingerprints without any are left out.

        Reads the tallies alone, some hundred thousand rows at a time.

        Args:
            problem_ids: of the problems; their order is that of the arrays.
        """
        return self._with_current(lambda names: sample_arrays(problem_ids, self._read_tallies(names)))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the committed rollouts, the newest resample of each id, in order of commit.

        Args:
            columns: of ROLLOUT_SCHEMA; None for all.
        """
        schema = _schema_of(columns)
        reading = list(dict.fromkeys(["id", "resample", *schema.names]))
        parts = self._with_current(lambda names: _in_threads(lambda name: self._read_segment(name, reading), names))
        if not parts:
            return schema.empty_table()
        table = pa.concat_tables(parts)
        newest = is_newest_of_id(table)
        return (table if newest.all() else table.filter(pa.array(newest))).select(schema.names).cast(schema)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rollouts that `read` returns, one segment at a time.

        Holds one segment and the ids of all rollouts in memory. A compaction may run meanwhile: rollouts of a segment
        that it removed are read from the merged one.

        Args:
            columns: of ROLLOUT_SCHEMA; None for all.
        """
        yielded: list[pa.ChunkedArray] = []
        while True:
            listed = self._list_manifests()
            try:
                yield from self._newest_by_segment(self._current(listed), _schema_of(columns), yielded)
                return
            except FileNotFoundError:
                if self._list_manifests() == listed:  # no compaction ran: a committed segment is lost
                    raise

    def _newest_by_segment(
        self, names: Sequence[str], schema: pa.Schema, yielded: list[pa.ChunkedArray]
    ) -> Iterator[pa.Table]:
        """Yield the newest resample of each id that is not in `yielded`, and add the ids there."""
        keys = [self._read_segment(name, ["id", "resample"]) for name in names]
        if not keys:
            return
        is_wanted = is_newest_of_id(pa.concat_tables(keys))
        if yielded:
            yielded_ids = pa.chunked_array([chunk for ids in yielded for chunk in ids.chunks], pa.large_string())
            is_wanted &= ~pc.is_in(pa.concat_tables(keys)["id"], value_set=yielded_ids.combine_chunks()).to_numpy()
        for name in names:
            table = self._read_segment(name, list(dict.fromkeys(["id", *schema.names])))
            table, is_wanted = table.filter(pa.array(is_wanted[: table.num_rows])), is_wanted[table.num_rows :]
            yielded.append(table["id"])
            yield table.select(schema.names).cast(schema)

    def compact(self, *, target_bytes: int = TARGET_BYTES, min_segments: int = MIN_SEGMENTS) -> int:
        """Merge small neighbouring segments into larger ones and return how many were merged.

        Args:
            target_bytes: see `plan_compaction`; so is min_segments.
            min_segments: of the smallest group that is worth merging.
        """
        groups = self.plan_compaction(target_bytes=target_bytes, min_segments=min_segments)
        return sum(self.merge(group) for group in groups)

    def plan_compaction(
        self, *, target_bytes: int = TARGET_BYTES, min_segments: int = MIN_SEGMENTS
    ) -> list[tuple[str, ...]]:
        """Delete what merged segments have replaced, and return the groups of segments that are worth merging.

        The groups are disjoint, so several processes can merge one each at the same time.

        Args:
            target_bytes: size up to which segments are merged; those of at least half of it stay as they are.
            min_segments: a smaller group is merged only if that makes a segment of half the target.
        """
        self._delete_replaced()

        def plan(names: list[str]) -> list[tuple[str, ...]]:
            sizes = (self.place / "segments").sizes()
            return merge_groups([(name, sizes.get(f"{name}.parquet", 0)) for name in names], target_bytes, min_segments)

        return self._with_current(plan)

    def merge(self, group: Sequence[str]) -> int:
        """Merge a group of `plan_compaction` into one segment and return how many segments it replaces.

        Every row stays, older resamples included; only of a row that was committed twice the second copy goes. May be
        killed at any point and repeated, and may run next to readers, writers and other merges, even of the same
        segments: the name of the merged segment follows from its parts. Holds one merged segment, compressed, and one
        row group in memory.

        Returns:
            How many segments are replaced; 0 if another process has merged some of them already.
        """
        name = f"{group[0].partition('-')[0]}-{content_hash(*group)[:8]}.merged"
        if self._manifest(name).exists():
            self._delete(group)
            return 0
        try:
            content, tallied = self._merge(group)
        except FileNotFoundError:
            if all(self._manifest(member).exists() for member in group):  # nobody merged them: a segment is lost
                raise
            return 0
        self._commit(name, content, tallied, replaces=list(group))
        self._delete(group)
        return len(group)

    def _merge(self, names: Sequence[str]) -> tuple[pa.Buffer, pa.Table]:
        """Return one parquet file with the rows of several segments, and TALLIED_COLUMNS of them."""
        kept = is_first_of_resample(pa.concat_tables([self._read_segment(name, ["id", "resample"]) for name in names]))
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, ROLLOUT_SCHEMA, compression="zstd") as writer:
            for rows in row_groups(self._read_segment(name).cast(ROLLOUT_SCHEMA) for name in names):
                writer.write_table(rows.filter(pa.array(kept[: rows.num_rows])))
                kept = kept[rows.num_rows :]
        content = sink.getvalue()
        return content, pq.read_table(pa.BufferReader(content), columns=TALLIED_COLUMNS, use_threads=False)

    def _delete_replaced(self) -> None:
        """Delete the segments that merged ones replace, wherever a compaction was killed before it did so."""
        listed = self._list_manifests()
        if replaced := self._replaced(listed):
            segments = (name.removesuffix(".parquet") for name in (self.place / "segments").names(".parquet"))
            tallies = (self.place / "tallies").names()
            self._delete(sorted(replaced & {*listed, *segments, *tallies}))

    def _delete(self, names: Sequence[str]) -> None:
        """Delete segments: their manifests first, so that no manifest names a missing segment.

        A manifest that a killed process left counts again when the merged segment that replaced it is merged itself.
        """
        for file in (self._manifest, self._segment, self._tally):
            for name in names:
                file(name).delete()

    def _with_current(self, read: Callable[[list[str]], T]) -> T:
        """Return the result of `read` on the current segments; repeat it if a compaction removed one meanwhile."""
        while True:
            listed = self._list_manifests()
            try:
                return read(self._current(listed))
            except FileNotFoundError:
                if self._list_manifests() == listed:  # no compaction ran: a committed segment is lost
                    raise

    def _list_manifests(self) -> list[str]:
        """Return the names of all manifests, in order.

        A listing is not a snapshot. While it runs, a compaction may write a merged manifest that the listing misses,
        and delete the replaced ones before they are listed. So a listing counts once the next one has the same merged
        manifests.
        """
        merged: list[str] | None = None
        while True:
            listed = [name.removesuffix(".json") for name in (self.place / "manifest").names(".json")]
            before, merged = merged, [name for name in listed if name.endswith(".merged")]
            if merged == before:
                return listed

    def _current(self, listed: Sequence[str]) -> list[str]:
        """Return the names of the segments that no merged one replaces."""
        replaced = self._replaced(listed)
        return [name for name in listed if name not in replaced]

    def _read_counts(self, name: str) -> CountsByTeacher:
        manifest = self._read_manifest(name)
        if "counts" in manifest:
            return counts_of_json(manifest["counts"])
        return counts_of(self._read_segment(name, TALLIED_COLUMNS))  # committed by a version before 4

    def _read_tallies(self, names: Sequence[str]) -> Iterator[Tally]:
        """Yield the tallies of segments in order; holds those of a thousand segments in memory."""
        for start in range(0, len(names), _TALLIES_AT_ONCE):
            yield from self._each(self._read_tally, names[start : start + _TALLIES_AT_ONCE])

    def _read_tally(self, name: str) -> Tally:
        stored = self._read_manifest(name).get("tally")
        if stored is None:
            return tally_of(self._read_segment(name, TALLIED_COLUMNS))  # committed by a version before 4
        return Tally.of_json(stored, None if "content" in stored else self._tally(name).read())

    def _replaced(self, listed: Sequence[str]) -> set[str]:
        merged = [name for name in listed if name.endswith(".merged")]
        return {name for replaced in self._each(self._replaced_by, merged) for name in replaced}

    def _replaced_by(self, merged: str) -> tuple[str, ...]:
        return _replaces(self._manifest(merged))

    def _read_manifests(self, names: Sequence[str]) -> list[dict[str, Any]]:
        return self._each(self._read_manifest, names)

    def _each(self, read: Callable[[str], T], names: Sequence[str]) -> list[T]:
        """Return what `read` returns of each name; it reads small files.

        Those of an object store are read many at a time, and so are those of a network's file system. Of a local disk,
        whose files are mostly in memory, they are read in this thread: threads would only wait for each other.
        """
        if not self.place.is_local:
            return _in_threads(read, names, _REQUESTS)
        waited = time.thread_time() - time.perf_counter()
        first = [read(name) for name in names[:_TRIED]]
        waited += time.perf_counter() - time.thread_time()
        if waited > _WORTH_A_THREAD * len(first):
            return first + _in_threads(read, names[_TRIED:], _REQUESTS)
        return first + [read(name) for name in names[_TRIED:]]

    def _read_manifest(self, name: str) -> dict[str, Any]:
        manifest = self._manifest(name).read_json()
        refuse_newer(manifest["schema"], manifest["segment"])
        return manifest

    def _manifest(self, name: str) -> Place:
        return self.place / "manifest" / f"{name}.json"

    def _segment(self, name: str) -> Place:
        return self.place / "segments" / f"{name}.parquet"

    def _tally(self, name: str) -> Place:
        return self.place / "tallies" / name

    def _read_segment(self, name: str, columns: Sequence[str] = ROLLOUT_SCHEMA.names) -> pa.Table:
        """Return columns of a segment."""
        segment = self._segment(name)
        with pq.ParquetFile(segment.path, filesystem=segment.filesystem, pre_buffer=True) as file:
            refuse_newer(schema_version(file.schema_arrow), segment.name)
            table = file.read(columns=stored_columns(columns, file.schema_arrow), use_threads=False)
        return select_columns(table, columns)


def _schema_of(columns: Sequence[str] | None) -> pa.Schema:
    names = ROLLOUT_SCHEMA.names if columns is None else columns
    return pa.schema([ROLLOUT_SCHEMA.field(name) for name in names], metadata=ROLLOUT_SCHEMA.metadata)


def _in_threads(work: Callable[[str], T], names: Sequence[str], threads: int = _READERS) -> list[T]:
    size = 1 + len(names) // (8 * threads)  # handing a name to a thread takes longer than reading a small local file
    parts = [names[start : start + size] for start in range(0, len(names), size)]
    with ThreadPoolExecutor(threads) as pool:
        return list(chain.from_iterable(pool.map(lambda part: [work(name) for name in part], parts)))


@lru_cache(maxsize=4096)
def _replaces(manifest: Place) -> tuple[str, ...]:
    """Return the names of the segments that a merged one replaces; manifests never change."""
    return tuple(manifest.read_json()["replaces"])
