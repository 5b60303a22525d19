"""Which segments of a ledger are worth merging, and how their rows are written. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

TARGET_BYTES = 64 << 20
"""Size of a merged segment, at most."""
MIN_SEGMENTS = 32
"""Segments of a group that is worth merging into less than half of that."""
_ROW_GROUP_BYTES = 64 << 20
"""Bytes in memory after which a compaction writes the rows that it has read."""


def merge_groups(sizes: Sequence[tuple[str, int]], target: int, min_segments: int) -> list[tuple[str, ...]]:
    """Return the groups of neighbouring segments that are worth merging.

    A segment of half the target stays alone, between its neighbours. Other neighbours form groups up to the target. A
    group is worth merging if it has many segments, or if it makes a segment of half the target: so the last group
    grows, and is rewritten, in few steps.

    Args:
        sizes: (name, bytes) of all segments, in order of commit.
        target: bytes of a group, at most.
        min_segments: of a group that makes a smaller segment.
    """
    groups: list[list[tuple[str, int]]] = []
    room = 0
    for name, size in sizes:
        is_large = size >= target // 2
        if not groups or is_large or size > room:
            groups.append([])
            room = target
        groups[-1].append((name, size))
        room = 0 if is_large else room - size
    return [
        tuple(name for name, _ in group)
        for group in groups
        if len(group) >= min_segments or (len(group) > 1 and sum(size for _, size in group) >= target // 2)
    ]


def row_groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
    """Concatenate tables up to a size in memory."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        waiting.append(table)
        size += table.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)
