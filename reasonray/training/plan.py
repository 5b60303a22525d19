"""The plan of a training: the examples of each step, fixed beforehand and independent of the number of workers.

A step is a set of `batch` examples. Packing and the split over ranks happen inside a step and affect only speed. So a
run on eight GPUs takes the same steps as a run on one CPU, and a resumed run continues the same plan.
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
"""The examples of one forward pass, by their row."""


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    packs: tuple[Pack, ...]
    target_tokens: int
    """Target tokens of all packs; the loss is the mean over them."""

    @property
    def rows(self) -> list[int]:
        """The rows of the step's examples."""
        return [row for pack in self.packs for row in pack]


@dataclass(frozen=True)
class Plan:
    """All steps of a training."""

    steps: tuple[Step, ...]
    overlong: tuple[int, ...]
    """Rows of the examples above max_tokens. They are left out, not cut: a cut one would have no stop token."""
    sha256: str
    """Hash of the steps and of the lengths that they were built from."""
    lengths: tuple[int, ...]
    """Tokens of each example."""
    pack_tokens: int
    """Most tokens of a pack; 0 puts every example into its own pack."""

    def for_rank(self, index: int, rank: int, world: int) -> list[Pack]:
        """Return a rank's packs of a step. All ranks get the same number, some empty, so that collectives stay aligned.

        Args:
            index: of the step.
            rank: of the worker.
            world: number of workers.
        """
        step = self.steps[index]
        if world == 1:
            return list(step.packs)
        shares = _balance(step.rows, self.lengths, world)
        packs = [_pack(rows, self.lengths, self.pack_tokens) for rows in shares]
        most = max(len(own) for own in packs)
        return packs[rank] + [()] * (most - len(packs[rank]))


def build(
    lengths: Sequence[int] | NDArray[np.int64],
    target_lengths: Sequence[int] | NDArray[np.int64],
    *,
    batch: int,
    max_tokens: int,
    epochs: int,
    seed: int,
    packing: bool = True,
) -> Plan:
    """Plan a training: every example that fits, exactly once an epoch, in an order that the seed decides.

    Args:
        lengths: tokens of each example.
        target_lengths: target tokens of each example.
        batch: examples per step; the last step of an epoch takes the rest.
        max_tokens: of an example, and of a pack.
        epochs: passes over the examples.
        seed: of the order.
        packing: False for models that would mix the examples of a pack.

    Raises:
        UserError: no example fits.
    """
    sizes = tuple(int(length) for length in lengths)
    targets = [int(length) for length in target_lengths]
    kept = rows_that_fit(lengths, max_tokens)
    pack_tokens = max_tokens if packing else 0
    steps = []
    for epoch in range(epochs):
        order = np.random.Generator(np.random.PCG64([seed, epoch])).permutation(kept).tolist()
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            steps.append(Step(tuple(_pack(rows, sizes, pack_tokens)), sum(targets[row] for row in rows)))
    overlong = tuple(row for row, size in enumerate(sizes) if size > max_tokens)
    return Plan(tuple(steps), overlong, _hash(sizes, targets, steps), sizes, pack_tokens)


def _hash(sizes: Sequence[int], targets: Sequence[int], steps: Sequence[Step]) -> str:
    # Checkpoints store this hash, so the text below must never change.
    written = ", ".join(f"Step(packs={step.packs!r}, loss_tokens={step.target_tokens})" for step in steps)
    return sha256(f"({sizes!r}, {targets!r}, [{written}])".encode()).hexdigest()


def rows_that_fit(lengths: Sequence[int] | NDArray[np.int64], max_tokens: int) -> NDArray[np.int64]:
    """Return the rows of the examples with at most max_tokens.

    Raises:
        UserError: there are none.
    """
    rows = np.flatnonzero(np.asarray(lengths) <= max_tokens)
    if not rows.size:
        raise UserError(
            f"nothing to train on: {len(lengths)} examples, {len(lengths)} of them beyond "
            f"training.max_tokens = {max_tokens}"
        )
    return rows


def learning_rate(step: int, steps: int, training: Training) -> float:
    """Return the learning rate of a step (from 0) of `steps`: linear warm-up, then the schedule down to its floor."""
    warmup = math.ceil(training.warmup * steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - 1 - warmup)
    share = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[training.schedule]
    return training.learning_rate * (training.floor + (1 - training.floor) * share)


def _pack(rows: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[Pack]:
    """Return as few packs as best fit decreasing needs, balanced if they still fit: that lowers the memory peak."""
    packs = _best_fit_decreasing(rows, lengths, max_tokens)
    balanced = _balance(rows, lengths, len(packs))
    fits = all(sum(lengths[row] for row in pack) <= max_tokens for pack in balanced)
    return [tuple(pack) for pack in (balanced if fits else packs)]


def _best_fit_decreasing(rows: Sequence[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Pack the longest example first, each into the fullest pack that still has room."""
    packs: list[list[int]] = []
    room: list[int] = []
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        candidates = [(room[pack], pack) for pack in range(len(packs)) if room[pack] >= lengths[row]]
        if candidates:
            _, pack = min(candidates)
            packs[pack].append(row)
            room[pack] -= lengths[row]
        else:
            packs.append([row])
            room.append(max_tokens - lengths[row])
    return packs


def _balance(rows: Sequence[int], lengths: Sequence[int], count: int) -> list[list[int]]:
    """Split examples into `count` ranks or packs of similar cost: the costliest first, each to the least loaded."""
    bins: list[list[int]] = [[] for _ in range(count)]
    load = [0.0] * count
    for row in sorted(rows, key=lambda row: (-lengths[row], row)):
        least = load.index(min(load))
        bins[least].append(row)
        load[least] += _cost(lengths[row])
    return bins


def _cost(length: int) -> float:
    # Attention is quadratic: in the usual models it costs as much as the matrix products at some ten thousand tokens.
    return length + length**2 / 10_000
