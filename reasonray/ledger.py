"""An append-only ledger of finished rollouts: the point of resume.

A commit writes an immutable parquet segment, then a small JSON manifest that names it. What no manifest names does not
exist, so a writer may die at any moment. Two writers never touch the same file. A rollout that was committed twice (a
lease ran again after its replica died between commit and report) is read once.

    <place>/segments/<name>.parquet
    <place>/manifest/<name>.json

Many small segments are compacted into few: a merged manifest (<name>.merged.json) lists the segments that it replaces,
which do not count from then on, whether they are deleted yet or not.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from reasonray.records import Finish, Outcome, Rollout
from reasonray.storage import Place
from reasonray.tables import ROLLOUT_SCHEMA, SCHEMA_VERSION, rollouts_to_table


@dataclass(frozen=True, slots=True)
class Tally:
    """What is already drawn of one problem under one fingerprint."""

    samples: frozenset[int] = frozenset()
    """Sample indices that are committed."""
    correct: int = 0
    tokens: int = 0
    """Completion tokens of all of them."""
    cut: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Samples that the token limit cut → (round, completion tokens)."""


@dataclass(frozen=True)
class Ledger:
    """The committed rollouts below one place."""

    place: Place

    def append(self, rollouts: Sequence[Rollout]) -> str:
        """Commit rollouts as one segment and return its name. Nothing is visible before all is."""
        return self.append_table(rollouts_to_table(rollouts))

    def append_table(self, table: pa.Table, replaces: Sequence[str] = ()) -> str:
        """Commit a table of ROLLOUT_SCHEMA as one segment, maybe in the place of others, and return its name."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}" + (".merged" if replaces else "")
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = sink.getvalue()
        (self.place / "segments" / f"{name}.parquet").write(content)
        manifest = {
            "segment": f"{name}.parquet",
            "rows": table.num_rows,
            "bytes": content.size,
            "schema": SCHEMA_VERSION,
            **({"replaces": list(replaces)} if replaces else {}),
        }
        (self.place / "manifest" / f"{name}.json").write(json.dumps(manifest).encode())
        return name

    def segments(self) -> list[Place]:
        """Return the committed segment files in order of commit."""
        return [self.place / "segments" / f"{name}.parquet" for name in self._names()]

    def _names(self) -> list[str]:
        names = [manifest.name.removesuffix(".json") for manifest in (self.place / "manifest").list(".json")]
        replaced = {old for name in names if name.endswith(".merged") for old in self._manifest(name)["replaces"]}
        return [name for name in names if name not in replaced]

    def _manifest(self, name: str) -> dict[str, Any]:
        return dict(json.loads((self.place / "manifest" / f"{name}.json").read()))

    def compact(self, *, target_bytes: int = 64 << 20, least: int = 32) -> int:
        """Merge small segments into few, and return how many were merged; nothing happens below `least` small ones.

        Every row stays, superseded rounds too; only a row that was committed twice stands once. May be killed at any
        moment, and may run beside writers (but not beside another compaction).
        """
        self._sweep()
        sizes = [(name, int(self._manifest(name)["bytes"])) for name in self._names()]
        small = [(name, size) for name, size in sizes if size < target_bytes // 2]
        if len(small) < least:
            return 0
        merged = 0
        for group in _groups(small, target_bytes):
            if len(group) > 1:
                self.append_table(_distinct_rows([self._table(name) for name in group]), replaces=group)
                merged += len(group)
        self._sweep()
        return merged

    def _table(self, name: str) -> pa.Table:
        segment = self.place / "segments" / f"{name}.parquet"
        return pq.read_table(segment.path, filesystem=segment.filesystem).cast(ROLLOUT_SCHEMA)

    def _sweep(self) -> None:
        """Delete what is replaced: the manifest first, so that none names a segment that is not there."""
        merged = [it.name.removesuffix(".json") for it in (self.place / "manifest").list(".merged.json")]
        for old in [old for name in merged for old in self._manifest(name)["replaces"]]:
            (self.place / "manifest" / f"{old}.json").delete()
            (self.place / "segments" / f"{old}.parquet").delete()

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the committed rollouts, each id once, of ROLLOUT_SCHEMA or of the columns named."""
        wanted = list(columns) if columns is not None else ROLLOUT_SCHEMA.names
        schema = pa.schema([ROLLOUT_SCHEMA.field(name) for name in wanted], metadata=ROLLOUT_SCHEMA.metadata)
        reading = list(dict.fromkeys(["id", "round", *wanted]))
        parts = [
            pq.read_table(segment.path, columns=reading, filesystem=segment.filesystem) for segment in self.segments()
        ]
        if not parts:
            return schema.empty_table()
        return _newest_of_each_id(pa.concat_tables(parts)).select(wanted).cast(schema)

    def tally(self) -> dict[tuple[str, str], Tally]:
        """Return what is drawn, by (problem id, fingerprint). Reads narrow columns only, never text."""
        columns = ["id", "problem_id", "fingerprint", "sample", "verdict_outcome", "finish", "round"]
        table = self.read([*columns, "completion_tokens"])
        cut: dict[tuple[str, str], dict[int, tuple[int, int]]] = defaultdict(dict)
        for row in table.filter(pc.equal(table["finish"], Finish.LENGTH.value)).drop_columns(["id"]).to_pylist():
            key = (row["problem_id"], row["fingerprint"])
            cut[key][row["sample"]] = (row["round"], row["completion_tokens"])
        table = table.append_column("correct", pc.equal(table["verdict_outcome"], Outcome.CORRECT.value))
        grouped = table.group_by(["problem_id", "fingerprint"]).aggregate(
            [("sample", "list"), ("correct", "sum"), ("completion_tokens", "sum")]
        )
        names = ("problem_id", "fingerprint", "sample_list", "correct_sum", "completion_tokens_sum")
        rows = zip(*(grouped[name].to_pylist() for name in names), strict=True)
        return {
            (problem, fingerprint): Tally(frozenset(samples), correct, tokens, cut.get((problem, fingerprint), {}))
            for problem, fingerprint, samples, correct, tokens in rows
        }


def _groups(sizes: Sequence[tuple[str, int]], target: int) -> list[list[str]]:
    """Put neighbours together up to a size."""
    groups: list[list[str]] = []
    room = 0
    for name, size in sizes:
        if not groups or size > room:
            groups.append([])
            room = target
        groups[-1].append(name)
        room -= size
    return groups


def _distinct_rows(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the first row of each (id, round), in order."""
    table = pa.concat_tables(tables)
    numbered = table.select(["id", "round"]).append_column("row", pa.array(range(table.num_rows), pa.int64()))
    first = numbered.group_by(["id", "round"]).aggregate([("row", "min")])["row_min"]
    return table if len(first) == table.num_rows else table.take(first.take(pc.sort_indices(first)))


def _newest_of_each_id(table: pa.Table) -> pa.Table:
    """Keep one row of each id: of the highest round, and the first of those."""
    if len(pc.unique(table["id"])) == table.num_rows:
        return table
    rows = pa.array(range(table.num_rows), pa.int64())
    numbered = pa.table({"id": table["id"], "round": table["round"], "row": rows})
    ordered = numbered.sort_by([("round", "descending"), ("row", "ascending")])
    first = ordered.group_by("id", use_threads=False).aggregate([("row", "first")])["row_first"]
    return table.take(first.take(pc.sort_indices(first)))
