"""Packs of examples: how they are filled, grouped into steps and dealt to workers. Pure functions of lengths."""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Pack = tuple[int, ...]
"""The examples of one forward pass, by their row."""

Lengths = Sequence[int] | Mapping[int, int]
"""Tokens of each example, by its row."""

WINDOW = 4096
"""Examples that are packed together: enough for packs to be full, and planning takes time in proportion."""

GROUP = 8
"""Steps among which packs are sorted by cost."""


@dataclass(frozen=True)
class Cost:
    """Time of an example, in tokens: linear for matrix products, quadratic for attention."""

    even: float = 10_000.0
    """Tokens at which attention within an example takes as long as its matrix products."""

    def of(self, length: int) -> float:
        """Return the cost of an example."""
        return length + length**2 / self.even

    def of_pack(self, pack: Iterable[int], lengths: Lengths) -> float:
        """Return the cost of a pack."""
        return sum(self.of(lengths[row]) for row in pack)


EARLIER_COST = Cost()
"""The cost by which steps of `batch` examples are packed, whatever the student: it decides the plans of existing
checkpoints."""


def pack_step(rows: Sequence[int], lengths: Lengths, max_tokens: int) -> list[Pack]:
    """Return as few packs as best fit decreasing needs, balanced if they still fit: that lowers the memory peak."""
    packs = best_fit_decreasing(rows, lengths, max_tokens)
    balanced = balance(rows, lengths, len(packs), EARLIER_COST)
    return balanced if _fit(balanced, lengths, max_tokens) else packs


def pack_windows(rows: Sequence[int], lengths: Lengths, max_tokens: int) -> list[Pack]:
    """Return full packs: each window of consecutive examples is packed by itself, in time linear in the examples.

    Args:
        rows: examples in the epoch's order.
        lengths: tokens of each example.
        max_tokens: of a pack; 0 puts every example into its own pack.
    """
    windows = (rows[start : start + WINDOW] for start in range(0, len(rows), WINDOW))
    return [pack for window in windows for pack in best_fit_decreasing(window, lengths, max_tokens)]


def group_into_steps(
    packs: Sequence[Pack], lengths: Lengths, size: int, cost: Cost, random: np.random.Generator
) -> list[list[Pack]]:
    """Divide an epoch's packs into steps of `size`, each of packs that take about the same time.

    A step takes as long as its costliest pack, so one long trace would keep all other workers waiting. Packs are
    shuffled, sorted by cost within groups of GROUP steps, and the steps of a group are shuffled again (sorted batching:
    LongAlign, Bai et al. 2024, found that it costs no quality). The last step of an epoch has from half to one and a
    half times `size` packs; an epoch of fewer is one step.

    Args:
        packs: of one epoch.
        lengths: tokens of each example.
        size: packs per step.
        cost: of examples.
        random: decides the order.
    """
    order = [packs[number] for number in random.permutation(len(packs)).tolist()]
    count = max(1, (2 * len(order) + size) // (2 * size))
    steps: list[list[Pack]] = []
    for first in range(0, count, GROUP):
        last = min(first + GROUP, count)
        end = len(order) if last == count else last * size
        group = sorted(order[first * size : end], key=lambda pack: -cost.of_pack(pack, lengths))
        starts = [size * step for step in range(last - first)]
        slices = [group[start:stop] for start, stop in zip(starts, [*starts[1:], len(group)], strict=True)]
        steps += [slices[number] for number in random.permutation(len(slices)).tolist()]
    return steps


def deal(packs: Sequence[Pack], lengths: Lengths, world: int, max_tokens: int, cost: Cost) -> list[list[Pack]]:
    """Return each worker's packs of a step, all in equal number, some empty, so that collectives stay aligned.

    Packs that cannot be dealt evenly are balanced again over as many as can. Packs of similar cost are computed at the
    same time, and who gets the costliest alternates.

    Args:
        packs: of one step.
        lengths: tokens of each of its examples.
        world: number of workers.
        max_tokens: of a pack; 0 if every example has its own pack.
        cost: of examples.
    """
    if world == 1:
        return [list(packs)]
    slots = -(-len(packs) // world) * world
    dealt = list(packs)
    if max_tokens and slots > len(packs):
        balanced = balance([row for pack in packs for row in pack], lengths, slots, cost)
        dealt = balanced if _fit(balanced, lengths, max_tokens) else dealt
    dealt += [()] * (slots - len(dealt))
    dealt.sort(key=lambda pack: -cost.of_pack(pack, lengths))
    rounds = [dealt[start : start + world] for start in range(0, slots, world)]
    alternating = [turn[::-1] if number % 2 else turn for number, turn in enumerate(rounds)]
    return [[turn[rank] for turn in alternating] for rank in range(world)]


def best_fit_decreasing(rows: Sequence[int], lengths: Lengths, max_tokens: int) -> list[Pack]:
    """Pack the longest example first, each into the fullest pack that still has room."""
    packs: list[list[int]] = []
    rooms: list[tuple[int, int]] = []  # the room of each pack, sorted
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        length = lengths[row]
        found = bisect_left(rooms, (length, -1))
        if found == len(rooms):
            rooms.append((max_tokens, len(packs)))
            packs.append([])
        room, pack = rooms.pop(found)
        packs[pack].append(row)
        insort(rooms, (room - length, pack))
    return [tuple(pack) for pack in packs]


def balance(rows: Sequence[int], lengths: Lengths, count: int, cost: Cost) -> list[Pack]:
    """Split examples into `count` packs of similar cost: the costliest first, each to the least loaded."""
    bins: list[list[int]] = [[] for _ in range(count)]
    loads = [(0.0, number) for number in range(count)]
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        load, least = loads[0]
        bins[least].append(row)
        heapq.heapreplace(loads, (load + cost.of(lengths[row]), least))
    return [tuple(rows) for rows in bins]


def _fit(packs: Iterable[Pack], lengths: Lengths, max_tokens: int) -> bool:
    return all(sum(lengths[row] for row in pack) <= max_tokens for pack in packs)
