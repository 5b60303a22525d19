"""Training examples: token ids with the start of their target tokens, in Arrow files and as packed batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad

IGNORED = -100
"""Label of a token that the loss leaves out."""

_ROWS_PER_BATCH = 2000
"""Examples in a record batch; as many are in memory while a file is written."""

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ids", pa.large_list(pa.int32()), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
        pa.field("weights", pa.large_list(pa.float32())),
        pa.field("logprobs", pa.large_list(pa.float32())),
    ]
)


@dataclass(frozen=True)
class Example:
    """Prompt and completion as token ids."""

    id: str
    ids: list[int]
    start: int
    """Index of the first target token: the loss counts the tokens from here to the end."""
    weights: list[float] | None = None
    """Loss weight of each target token, such as 0 for a tool's output; None if each counts once. A weight may be
    negative."""
    logprobs: list[float] | None = None
    """Log-probability of each target token when it was sampled, for policy gradients; the weights are advantages."""


@dataclass(frozen=True)
class Batch:
    """A pack as the model's input: one row of shape (1, tokens), its examples end to end."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    """Already shifted: the label of a token is the next token of the same example, or IGNORED."""
    cu_seq_lens: torch.Tensor
    """Where each example begins, and where the last one ends."""
    max_length: int
    """Tokens of the longest example."""
    weights: torch.Tensor | None = None
    """Loss weight of each label; None if each is 1."""
    logprobs: torch.Tensor | None = None
    """Log-probability of each label when it was sampled; None if no example has them."""

    def part(self, rank: int, count: int) -> Batch:
        """Return one of `count` equal parts of the tokens, with the boundaries of the whole pack.

        The pack is filled up with fewer than `count` tokens that are an example of their own without a target.
        """
        tokens = self.input_ids.shape[1]
        missing = -tokens % count
        own = slice(rank * (tokens + missing) // count, (rank + 1) * (tokens + missing) // count)
        ends = self.cu_seq_lens.new_tensor([tokens + missing] if missing else [])
        return Batch(
            pad(self.input_ids, (0, missing))[:, own],
            torch.cat([self.position_ids, torch.arange(missing, device=self.position_ids.device)[None]], 1)[:, own],
            pad(self.labels, (0, missing), value=IGNORED)[:, own],
            torch.cat([self.cu_seq_lens, ends]),
            max(self.max_length, missing),
            *(None if row is None else pad(row, (0, missing))[:, own] for row in (self.weights, self.logprobs)),
        )

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device; it is copied from pinned memory while the device computes."""
        return self._changed(lambda tensor: tensor.to(device, non_blocking=True))

    def pinned(self) -> Batch:
        """Return the batch in pinned memory, from which a GPU copies by itself."""
        return self._changed(lambda tensor: tensor.pin_memory())

    def _changed(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        return Batch(
            change(self.input_ids),
            change(self.position_ids),
            change(self.labels),
            change(self.cu_seq_lens),
            self.max_length,
            *(None if row is None else change(row) for row in (self.weights, self.logprobs)),
        )


@dataclass(frozen=True)
class Examples:
    """Memory-mapped examples of one or more files, in the order of their ids; a row is read when it is accessed."""

    batches: tuple[pa.RecordBatch, ...]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: int) -> Example:
        number, offset = self._locate(row)
        batch = self.batches[number]
        optional = (batch[name][offset].as_py() if _has(batch, name) else None for name in ("weights", "logprobs"))
        ids = batch["ids"][offset].values.to_pylist()
        return Example(batch["id"][offset].as_py(), ids, batch["start"][offset].as_py(), *optional)

    def _locate(self, row: int) -> tuple[int, int]:
        """Return the number of the batch that holds a row, and the row's offset in the batch."""
        position = int(self._order[row])
        number = int(np.searchsorted(self._first_rows, position, side="right")) - 1
        return number, position - int(self._first_rows[number])

    @cached_property
    def _first_rows(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(batch.num_rows for batch in self.batches[:-1])])

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        # How the rows are split over files must not decide the order of training.
        ids = pa.chunked_array([batch["id"] for batch in self.batches], pa.string())
        order: NDArray[np.int64] = pc.sort_indices(ids).to_numpy().astype(np.int64)
        return order

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        per_batch = [np.diff(batch["ids"].offsets.to_numpy()) for batch in self.batches]
        lengths: NDArray[np.int64] = np.concatenate([np.array([], dtype=np.int64), *per_batch])[self._order]
        return lengths

    @cached_property
    def target_lengths(self) -> NDArray[np.int64]:
        """Target tokens of each example."""
        starts = pa.chunked_array([batch["start"] for batch in self.batches], pa.int32())
        target_lengths: NDArray[np.int64] = self.lengths - starts.to_numpy()[self._order]
        return target_lengths

    @cached_property
    def target_weights(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Sum of the absolute loss weights of each example; where no example has weights, its target tokens."""
        if not any(_has(batch, "weights") for batch in self.batches):
            return self.target_lengths
        weights = self.target_lengths.astype(np.float64)
        for row in range(len(self)):
            number, offset = self._locate(row)
            own = self.batches[number]["weights"][offset] if _has(self.batches[number], "weights") else None
            if own is not None and own.is_valid:
                weights[row] = np.abs(own.values.to_numpy().astype(np.float64)).sum()
        return weights

    @property
    def have_logprobs(self) -> bool:
        """Whether every example has the log-probabilities with which its tokens were sampled."""
        return all(_has(batch, "logprobs") and not batch["logprobs"].null_count for batch in self.batches)

    @cached_property
    def largest_token(self) -> int:
        """The highest token id of all examples; -1 without examples."""
        return max((pc.max(batch["ids"].values).as_py() for batch in self.batches if batch.num_rows), default=-1)

    @cached_property
    def sha256(self) -> str:
        """Hash of the examples in their order, whatever their split over files."""
        digest = sha256()
        columns = [
            (batch["id"], batch["start"].to_numpy(), batch["ids"].offsets.to_numpy(), batch["ids"].values.to_numpy())
            for batch in self.batches
        ]
        for number, offset in map(self._locate, range(len(self))):
            ids, starts, boundaries, tokens = columns[number]
            first, end = boundaries[offset : offset + 2]
            digest.update(f"{ids[offset]} {starts[offset]} {end - first} ".encode())
            digest.update(tokens[first:end])
            for name in ("weights", "logprobs"):
                numbers = self.batches[number][name][offset] if _has(self.batches[number], name) else None
                if numbers is not None and numbers.is_valid:
                    digest.update(numbers.values.to_numpy())
        return digest.hexdigest()


def _has(batch: pa.RecordBatch, column: str) -> bool:
    """Return whether any example of a batch has values in a column, which files of earlier versions may not have."""
    return column in batch.schema.names and batch[column].null_count < batch.num_rows


def write(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples to one Arrow file, a record batch at a time."""
    rows = iter(examples)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while batch := list(islice(rows, _ROWS_PER_BATCH)):
            columns = [[getattr(row, field.name) for row in batch] for field in _SCHEMA]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def read(path: str | Path) -> Examples:
    """Open a file that `write` made, or all such files of a directory."""
    files = sorted(Path(path).glob("*.arrow")) if Path(path).is_dir() else [Path(path)]
    readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
    batches = (reader.get_batch(number) for reader in readers for number in range(reader.num_record_batches))
    return Examples(tuple(batches))


def collate(examples: Examples | Sequence[Example], pack: Sequence[int]) -> Batch:
    """Put the examples of a pack end to end, without padding. An empty pack becomes one token that is not a target.

    Args:
        examples: all examples.
        pack: rows of the examples in the pack.
    """
    chosen = [examples[row] for row in pack] or [Example("", [0], 1)]
    lengths = [len(example.ids) for example in chosen]
    labels = np.full(sum(lengths), IGNORED, dtype=np.int64)
    weights, logprobs = np.ones(sum(lengths), dtype=np.float32), np.zeros(sum(lengths), dtype=np.float32)
    boundaries = np.cumsum([0, *lengths])
    for example, first in zip(chosen, boundaries[:-1], strict=True):
        # The token before the completion predicts its first one; the last token of an example predicts nothing.
        targets = slice(first + example.start - 1, first + len(example.ids) - 1)
        labels[targets] = example.ids[example.start :]
        if example.weights is not None:
            weights[targets] = example.weights
            labels[targets][weights[targets] == 0] = IGNORED
        if example.logprobs is not None:
            logprobs[targets] = example.logprobs
    return Batch(
        input_ids=torch.tensor([[token for example in chosen for token in example.ids]]),
        position_ids=torch.from_numpy(np.concatenate([np.arange(length) for length in lengths]))[None],
        labels=torch.from_numpy(labels)[None],
        cu_seq_lens=torch.from_numpy(boundaries.astype(np.int32)),
        max_length=max(lengths),
        weights=torch.from_numpy(weights)[None] if any(example.weights is not None for example in chosen) else None,
        logprobs=torch.from_numpy(logprobs)[None] if any(example.logprobs is not None for example in chosen) else None,
    )
