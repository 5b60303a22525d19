"""Problems as a sequence over an Arrow table: millions of them take the space of their text, not of Python objects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.records import Problem
from reasonray.store.schema import problem_of_row, problems_to_table

_ITERATED_ROWS = 4096


class ProblemTable(Sequence[Problem]):
    """Problems that are built from their row when they are asked for."""

    def __init__(self, table: pa.Table) -> None:
        """Wrap a table of PROBLEM_SCHEMA."""
        self._table = table.combine_chunks()
        self._columns = dict(zip(table.column_names, self._table.columns, strict=True))

    @staticmethod
    def of(problems: Iterable[Problem]) -> ProblemTable:
        """Return problems as a table."""
        return problems if isinstance(problems, ProblemTable) else ProblemTable(problems_to_table(problems))

    def __len__(self) -> int:
        return int(self._table.num_rows)

    @overload
    def __getitem__(self, index: int) -> Problem: ...

    @overload
    def __getitem__(self, index: slice) -> ProblemTable: ...

    def __getitem__(self, index: int | slice) -> Problem | ProblemTable:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return problem_of_row({name: column[index].as_py() for name, column in self._columns.items()})

    def __iter__(self) -> Iterator[Problem]:
        for batch in self._table.to_batches(max_chunksize=_ITERATED_ROWS):
            yield from map(problem_of_row, batch.to_pylist())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as lists, which it replaces

    def take(self, indices: Sequence[int] | npt.NDArray[Any]) -> ProblemTable:
        """Return some of the problems, in the given order."""
        return ProblemTable(self._table.take(pa.array(indices, pa.int64())))

    @property
    def ids(self) -> list[str]:
        """The problems' ids."""
        return list(self._columns["id"].to_pylist())

    def difficulties(self) -> tuple[npt.NDArray[np.int32], list[str]]:
        """Return each problem's difficulty as a number, and the names of the numbers."""
        if not len(self):
            return np.zeros(0, np.int32), []
        encoded = pc.dictionary_encode(self._columns["difficulty"]).combine_chunks()
        encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
        return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int32), encoded.dictionary.to_pylist()
