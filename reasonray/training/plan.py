"""The plan of a training: the packs of each step, fixed beforehand and independent of the number of workers.

A step is a number of full packs, or `batch` examples. Its split over ranks affects only speed. So a run on eight GPUs
takes the same steps as a run on one CPU, and a resumed run continues the same plan. The plan is an Arrow table with a
row for each step; it is made once, and all workers map the same file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import overload

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from reasonray.config import StepSize, Training
from reasonray.errors import UserError
from reasonray.training import packing
from reasonray.training.packing import EARLIER_COST, Cost, Pack

Numbers = Sequence[int] | NDArray[np.int64]

_ROWS = pa.list_(pa.list_(pa.int32()))
_SCHEMA = pa.schema(
    [
        pa.field("packs", _ROWS, nullable=False),
        pa.field("lengths", _ROWS, nullable=False),
        pa.field("weight", pa.float64(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    packs: tuple[Pack, ...]
    lengths: tuple[tuple[int, ...], ...]
    """Tokens of each example, in the order of the packs."""
    weight: float
    """Sum of the absolute loss weights of all target tokens, by which the loss is divided; the number of target tokens
    if none has a weight of its own."""

    @property
    def rows(self) -> list[int]:
        """The rows of the step's examples."""
        return [row for pack in self.packs for row in pack]

    @property
    def tokens(self) -> int:
        """Tokens of all packs."""
        return sum(map(sum, self.lengths))


@dataclass(frozen=True)
class Steps(Sequence[Step]):
    """The steps of a plan; each is read from the table when it is accessed."""

    table: pa.Table

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Step: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Step]: ...

    def __getitem__(self, index: int | slice) -> Step | Sequence[Step]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        (row,) = self.table.slice(index % len(self), 1).to_pylist()
        packs, lengths = (tuple(map(tuple, row[name])) for name in ("packs", "lengths"))
        return Step(packs, lengths, row["weight"])


@dataclass(frozen=True)
class Plan:
    """All steps of a training."""

    steps: Sequence[Step]
    overlong: tuple[int, ...]
    """Rows of the examples above max_tokens. They are left out, not cut: a cut one would have no stop token."""
    sha256: str
    """Hash of the steps and of the lengths and weights that they were built from."""
    pack_tokens: int
    """Most tokens of a pack; 0 puts every example into its own pack."""
    cost: Cost = EARLIER_COST
    """By which packs are balanced over ranks."""
    examples: str = ""
    """Hash of the examples, "" if the plan was made of lengths alone."""
    largest_token: int = -1
    """Highest token id of the examples."""

    def for_rank(self, index: int, rank: int, world: int) -> list[Pack]:
        """Return a rank's packs of a step. All ranks get the same number, some empty, so that collectives stay aligned.

        Args:
            index: of the step.
            rank: of the worker, or of its group where several share each pack.
            world: number of workers, or of such groups.
        """
        step = self.steps[index]
        lengths = dict(zip(step.rows, (length for pack in step.lengths for length in pack), strict=True))
        return packing.deal(step.packs, lengths, world, self.pack_tokens, self.cost)[rank]


def build(
    lengths: Numbers,
    weights: Numbers | NDArray[np.float64],
    *,
    max_tokens: int,
    epochs: int,
    seed: int,
    batch: int | None = None,
    step: StepSize | None = None,
    packable: bool = True,
    cost: Cost = EARLIER_COST,
    max_steps: int | None = None,
) -> Plan:
    """Plan a training: every example that fits, exactly once an epoch, in an order that the seed decides.

    Args:
        lengths: tokens of each example.
        weights: sum of the absolute loss weights of each example's target tokens; their number without weights.
        max_tokens: of an example, and of a pack.
        epochs: passes over the examples.
        seed: of the order.
        batch: examples per step; the last step of an epoch takes the rest.
        step: size of a step in packs, instead of `batch`.
        packable: False for models that would mix the examples of a pack.
        cost: of the student, by which the packs of a step are chosen alike.
        max_steps: most steps; None for all of the epochs.

    Raises:
        UserError: no example fits.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    kept = rows_that_fit(sizes, max_tokens)
    pack_tokens, of_row = max_tokens if packable else 0, sizes.tolist()
    divided: list[list[Pack]] = []
    for epoch in range(epochs):
        if max_steps is not None and len(divided) >= max_steps:
            break
        random = np.random.Generator(np.random.PCG64([seed, epoch]))
        rows = random.permutation(kept).tolist()
        if step is None:
            batches = (rows[start : start + (batch or 1)] for start in range(0, len(rows), batch or 1))
            divided += [packing.pack_step(rows, of_row, pack_tokens) for rows in batches]
        else:
            packs = packing.pack_windows(rows, of_row, pack_tokens)
            size = step.in_packs(pack_tokens or float(sizes[kept].mean()))
            divided += packing.group_into_steps(packs, of_row, size, cost, random)
    chosen = divided[:max_steps]
    return _plan(chosen, sizes, np.asarray(weights), pack_tokens, max_tokens, cost if step else EARLIER_COST)


def of_all(lengths: Numbers, weights: Numbers | NDArray[np.float64], *, max_tokens: int, packable: bool) -> Plan:
    """Return a plan of a single step of all examples that fit, for validation; it takes time linear in the examples.

    Raises:
        UserError: no example fits.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    rows = rows_that_fit(sizes, max_tokens).tolist()
    pack_tokens = max_tokens if packable else 0
    packs = packing.pack_windows(rows, sizes.tolist(), pack_tokens)
    return _plan([packs], sizes, np.asarray(weights), pack_tokens, max_tokens, EARLIER_COST)


def _plan(
    divided: list[list[Pack]],
    sizes: NDArray[np.int64],
    weights: NDArray[np.int64] | NDArray[np.float64],
    pack_tokens: int,
    max_tokens: int,
    cost: Cost,
) -> Plan:
    of_row, weight_of_row = sizes.tolist(), weights.tolist()
    step_weights = [sum(weight_of_row[row] for pack in packs for row in pack) for packs in divided]
    tokens = [[[of_row[row] for row in pack] for pack in packs] for packs in divided]
    digest = _hash(of_row, weight_of_row, divided, step_weights)
    table = pa.table({"packs": divided, "lengths": tokens, "weight": step_weights}, schema=_SCHEMA)
    overlong = tuple(np.flatnonzero(sizes > max_tokens).tolist())
    return Plan(Steps(table), overlong, digest, pack_tokens, cost)


def _hash(sizes: list[int], weights: Sequence[float], divided: list[list[Pack]], step_weights: Sequence[float]) -> str:
    # Checkpoints store this hash, so the text below must never change.
    steps = zip(map(tuple, divided), step_weights, strict=True)
    written = ", ".join(f"Step(packs={packs!r}, loss_tokens={weight})" for packs, weight in steps)
    return sha256(f"({tuple(sizes)!r}, {weights!r}, [{written}])".encode()).hexdigest()


def write(path: str | Path, plan: Plan) -> None:
    """Write a plan to an Arrow file, for `read`."""
    assert isinstance(plan.steps, Steps)
    facts = {name: getattr(plan, name) for name in ("overlong", "sha256", "pack_tokens", "examples", "largest_token")}
    metadata = {"plan": json.dumps(facts | {"cost": asdict(plan.cost)})}
    table = plan.steps.table.replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def read(path: str | Path) -> Plan:
    """Map a plan's file; its steps stay on the disk until they are accessed."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    facts = json.loads(table.schema.metadata[b"plan"])
    overlong, cost = tuple(facts.pop("overlong")), Cost(**facts.pop("cost"))
    return Plan(Steps(table), overlong=overlong, cost=cost, **facts)


def rows_that_fit(lengths: Numbers, max_tokens: int) -> NDArray[np.int64]:
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
