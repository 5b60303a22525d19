"""Training examples: token ids, which of them are learnt, and how they lie in a file and in a batch.

The teacher's text is tokenised as it came; it is never rendered through the chat template again, which would drop or
double its reasoning. Every example proves that it teaches the whole text and the token to stop at.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from reasonray.errors import UserError
from reasonray.prompts import REASONING_OPEN, Message, prompt_ids, prompt_text

IGNORED = -100
"""Label of a token that the loss leaves out."""

_ROWS = 2000
"""Examples in a record batch; as many are in memory while a file is written."""

_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("ids", pa.large_list(pa.int32()), nullable=False),
        pa.field("start", pa.int32(), nullable=False),
    ]
)


class Refused(Exception):
    """An example that would not teach its text and one stop token: left out and counted, as any bad row."""


@dataclass(frozen=True)
class Example:
    """Prompt and completion as token ids; the tokens from `start` on are learnt."""

    id: str
    ids: list[int]
    start: int


@dataclass(frozen=True)
class Batch:
    """One pack, ready for the model: a single row, its examples end to end."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    labels: torch.Tensor
    """Already shifted: the label of a token is the one that follows it in the same example."""
    cu_seq_lens: torch.Tensor
    """Where each example begins, and where the last one ends."""
    max_length: int

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device."""
        return Batch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.labels.to(device),
            self.cu_seq_lens.to(device),
            self.max_length,
        )


def stop_token(directory: Path, tokenizer: Any) -> int:
    """Return the token that ends an answer: of those at which generation stops, the one that the chat template writes.

    Raises:
        UserError: the model names no such token.
    """
    named: Any = None
    for file in (directory / "generation_config.json", directory / "config.json"):
        if named is None and file.exists():
            named = json.loads(file.read_text()).get("eos_token_id")
    stops = named if isinstance(named, list) else [named] if named is not None else []
    if not stops and tokenizer.eos_token_id is not None:
        stops = [tokenizer.eos_token_id]
    if not stops:
        raise UserError(
            f"model {directory.name}: no eos_token_id in generation_config.json; set one, it ends an answer"
        )
    written = _ids_after_an_answer(tokenizer) if tokenizer.chat_template and len(stops) > 1 else []
    return int(next((token for token in written if token in stops), stops[0]))


def _ids_after_an_answer(tokenizer: Any) -> list[int]:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("answer")[2]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokenise(
    tokenizer: Any, turns: Sequence[Message], template_args: Mapping[str, Any], completion: str, stop: int, *, id: str
) -> Example:
    """Make an example of a prompt and a completion's text.

    Raises:
        UserError: the prompt and the completions do not fit together; no example would be right.
        Refused: what would be learnt is not exactly the text and then, once, the stop token.
    """
    opened = prompt_text(tokenizer, turns, template_args).rstrip().endswith(REASONING_OPEN)
    if opened and completion.lstrip().startswith(REASONING_OPEN):
        raise UserError(
            f"example {id}: the student's prompt already ends in {REASONING_OPEN} and the completion opens it again; "
            "set student.prompt.template_args so that the chat template leaves it out"
        )
    prompt = prompt_ids(tokenizer, turns, template_args)
    learnt = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    if not prompt or not learnt:
        raise Refused(f"example {id}: the {'completion' if prompt else 'prompt'} is empty")
    if stop in learnt:
        raise Refused(f"example {id}: the completion's text holds the stop token {tokenizer.decode([stop])!r}")
    if completion not in tokenizer.decode(prompt + learnt, skip_special_tokens=False):
        raise Refused(f"example {id}: the student's tokenizer does not give the completion's text back as it was")
    return Example(id, [*prompt, *learnt, stop], len(prompt))


@dataclass(frozen=True)
class Examples:
    """The examples of some files, in the order of their ids, memory-mapped: a row is read when it is asked for."""

    batches: tuple[pa.RecordBatch, ...]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: int) -> Example:
        number, at = self._find(row)
        batch = self.batches[number]
        return Example(batch["id"][at].as_py(), batch["ids"][at].values.to_pylist(), batch["start"][at].as_py())

    def _find(self, row: int) -> tuple[int, int]:
        """Return the number of the batch that a row is in, and where in it."""
        place = int(self._order[row])
        number = int(np.searchsorted(self._begins, place, side="right")) - 1
        return number, place - int(self._begins[number])

    @cached_property
    def _begins(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(batch.num_rows for batch in self.batches[:-1])])

    @cached_property
    def _order(self) -> NDArray[np.int64]:
        # How the rows are dealt to files must not decide the order of training.
        ids = pa.chunked_array([batch["id"] for batch in self.batches], pa.string())
        order: NDArray[np.int64] = pc.sort_indices(ids).to_numpy().astype(np.int64)
        return order

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each example."""
        of_batches = [np.diff(batch["ids"].offsets.to_numpy()) for batch in self.batches]
        lengths: NDArray[np.int64] = np.concatenate([np.array([], dtype=np.int64), *of_batches])[self._order]
        return lengths

    @cached_property
    def loss_lengths(self) -> NDArray[np.int64]:
        """Tokens of each example that are learnt."""
        starts = pa.chunked_array([batch["start"] for batch in self.batches], pa.int32())
        learnt: NDArray[np.int64] = self.lengths - starts.to_numpy()[self._order]
        return learnt

    @cached_property
    def largest_token(self) -> int:
        """The highest token id that stands anywhere."""
        return max((pc.max(batch["ids"].values).as_py() for batch in self.batches if batch.num_rows), default=-1)

    @cached_property
    def sha256(self) -> str:
        """Hash of the examples in their order, however they are dealt to files."""
        digest = sha256()
        columns = [
            (it["id"], it["start"].to_numpy(), it["ids"].offsets.to_numpy(), it["ids"].values.to_numpy())
            for it in self.batches
        ]
        for number, at in map(self._find, range(len(self))):
            id, start, offsets, tokens = columns[number]
            first, end = offsets[at : at + 2]
            digest.update(f"{id[at]} {start[at]} {end - first} ".encode())
            digest.update(tokens[first:end])
        return digest.hexdigest()


def write(path: str | Path, examples: Iterable[Example]) -> None:
    """Write examples to one Arrow file, a record batch at a time."""
    rows = iter(examples)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        while some := list(islice(rows, _ROWS)):
            columns = [[row.id for row in some], [row.ids for row in some], [row.start for row in some]]
            arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
            writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))


def read(path: str | Path) -> Examples:
    """Open a file that `write` made, or all such files of a directory."""
    files = sorted(Path(path).glob("*.arrow")) if Path(path).is_dir() else [Path(path)]
    readers = [pa.ipc.open_file(pa.memory_map(str(file))) for file in files]
    batches = (reader.get_batch(number) for reader in readers for number in range(reader.num_record_batches))
    return Examples(tuple(batches))


def collate(examples: Examples | Sequence[Example], pack: Sequence[int]) -> Batch:
    """Lay the examples of a pack end to end, without padding; an empty pack becomes one token that nothing learns."""
    chosen = [examples[row] for row in pack] or [Example("", [0], 1)]
    sizes = [len(example.ids) for example in chosen]
    labels = np.full(sum(sizes), IGNORED, dtype=np.int64)
    ends = np.cumsum([0, *sizes])
    for example, begin in zip(chosen, ends[:-1], strict=True):
        # The token before the completion predicts its first one; the last token of an example predicts nothing.
        labels[begin + example.start - 1 : begin + len(example.ids) - 1] = example.ids[example.start :]
    return Batch(
        input_ids=torch.tensor([[token for example in chosen for token in example.ids]]),
        position_ids=torch.from_numpy(np.concatenate([np.arange(size) for size in sizes]))[None],
        labels=torch.from_numpy(labels)[None],
        cu_seq_lens=torch.from_numpy(ends.astype(np.int32)),
        max_length=max(sizes),
    )
