"""Which examples make up which step, decided before training and independent of the number of workers.

A step is a set of `batch` examples. Packing and the split over ranks happen inside a step and change nothing but speed,
so a run on eight GPUs and a run on one CPU take the same steps, and a resumed run continues the very same plan.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from reasonray.config import Training
from reasonray.errors import UserError

Pack = tuple[int, ...]
"""Examples, by their row, that one forward pass takes side by side."""


@dataclass(frozen=True)
class Step:
    """One update of the weights: its examples in packs, and how many tokens its loss is the mean of."""

    packs: tuple[Pack, ...]
    loss_tokens: int

    @property
    def rows(self) -> list[int]:
        """The step's examples."""
        return [row for pack in self.packs for row in pack]


@dataclass(frozen=True)
class Plan:
    """All steps of a run; the hash covers them and what they were made from."""

    steps: tuple[Step, ...]
    overlong: tuple[int, ...]
    """Examples beyond max_tokens: left out, never cut, for a cut one would have no stop token."""
    sha256: str
    lengths: tuple[int, ...]
    pack_tokens: int
    """Most tokens in a pack; 0 puts every example into a pack of its own."""

    def for_rank(self, index: int, rank: int, world: int) -> list[Pack]:
        """Return a rank's packs of a step; as many for every rank, some empty, so that collectives stay aligned."""
        step = self.steps[index]
        if world == 1:
            return list(step.packs)
        lanes = [_packed(rows, self.lengths, self.pack_tokens) for rows in _dealt(step.rows, self.lengths, world)]
        most = max(len(lane) for lane in lanes)
        return lanes[rank] + [()] * (most - len(lanes[rank]))


def build(
    lengths: Sequence[int] | NDArray[np.int64],
    loss_lengths: Sequence[int] | NDArray[np.int64],
    *,
    batch: int,
    max_tokens: int,
    epochs: int,
    seed: int,
    packing: bool = True,
) -> Plan:
    """Plan a run: every example that fits, exactly once an epoch, in an order drawn from the seed.

    Args:
        lengths: tokens of each example.
        loss_lengths: tokens of each example that the loss counts.
        batch: examples a step; the last step of an epoch takes what is left.
        max_tokens: longest example, and the length of a pack.
        epochs: how often each example is seen.
        seed: of the order.
        packing: False for models that would mix the examples of a pack.

    Raises:
        UserError: no example fits.
    """
    sizes = tuple(int(length) for length in lengths)
    counted = [int(length) for length in loss_lengths]
    kept = fitting(lengths, max_tokens)
    pack_tokens = max_tokens if packing else 0
    steps = []
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(kept).tolist()
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            steps.append(Step(tuple(_packed(rows, sizes, pack_tokens)), sum(counted[row] for row in rows)))
    overlong = tuple(row for row, size in enumerate(sizes) if size > max_tokens)
    content = repr((sizes, counted, steps)).encode()
    return Plan(tuple(steps), overlong, sha256(content).hexdigest(), sizes, pack_tokens)


def fitting(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """Return the rows of the examples that are not overlong.

    Raises:
        UserError: there is none.
    """
    rows = np.flatnonzero(np.asarray(lengths) <= max_tokens)
    if not rows.size:
        raise UserError(
            f"nothing to train on: {len(lengths)} examples, {len(lengths)} of them beyond "
            f"training.max_tokens = {max_tokens}"
        )
    return rows


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Return the rate of a step (from 0) of `steps`: linear warm-up, then the schedule down to its floor."""
    warmup = math.ceil(training.warmup * steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    falls = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[training.schedule]
    return training.learning_rate * (training.floor + (1 - training.floor) * falls)


def _packed(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[Pack]:
    """Put rows into as few packs as best fit decreasing needs, of like cost where they go in: memory peaks lower."""
    packs = _best_fit(rows, lengths, most)
    even = _dealt(rows, lengths, len(packs))
    fits = all(sum(lengths[row] for row in pack) <= most for pack in even)
    return [tuple(pack) for pack in (even if fits else packs)]


def _best_fit(rows: Sequence[int], lengths: Sequence[int], most: int) -> list[list[int]]:
    """Pack the longest first, each into the fullest pack that still has room."""
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        fitting = [(room[pack], pack) for pack in range(len(packs)) if room[pack] >= lengths[row]]
        if fitting:
            _, pack = min(fitting)
            packs[pack].append(row)
            room[pack] -= lengths[row]
        else:
            packs.append([row])
            room.append(most - lengths[row])
    return packs


def _dealt(rows: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Deal examples to ranks or packs so that none is much dearer: the costliest first, to the least loaded."""
    lanes: list[list[int]] = [[] for _ in range(count)]
    load = [0.0] * count
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        lane = load.index(min(load))
        lanes[lane].append(row)
        load[lane] += _cost(lengths[row])
    return lanes


def _cost(length: int) -> float:
    # Attention is quadratic; it overtakes the matrix products at some ten thousand tokens in the usual models.
    return length + length**2 / 10_000
