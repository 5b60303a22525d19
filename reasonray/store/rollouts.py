"""Stored rollouts as typed records: filtered in Arrow, and read file by file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.errors import UserError
from reasonray.records import Outcome, Rollout
from reasonray.store.schema import table_to_rollouts

_BATCH_ROWS = 1024
"""Rows that become records at the same time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutFilter:
    """The values that a rollout must have; None accepts every value.

    Raises:
        UserError: there is no such outcome.
    """

    outcome: str | None = None
    teacher: str | None = None
    difficulty: str | None = None
    dropped_by: str | None = None
    selected: bool | None = None
    problem: str | None = None
    """The problem's id."""

    def __post_init__(self) -> None:
        if self.outcome is not None and self.outcome not in list(Outcome):
            raise UserError(f"there is no outcome {str(self.outcome)!r}; there are {', '.join(Outcome)}")

    @property
    def needs_annotations(self) -> bool:
        """Whether only curated rollouts have the values."""
        return self.dropped_by is not None or self.selected is not None

    def apply(self, table: pa.Table) -> pa.Table:
        """Return the matching rows of a table of ROLLOUT_SCHEMA."""
        values = {
            "verdict_outcome": None if self.outcome is None else str(self.outcome),
            "teacher": self.teacher,
            "problem_difficulty": self.difficulty,
            "annotation_dropped_by": self.dropped_by,
            "annotation_selected": self.selected,
            "problem_id": self.problem,
        }
        for column, value in values.items():
            if value is not None:
                table = table.filter(pc.equal(table[column], value))
        return table


def matching_rollouts(tables: Iterable[pa.Table], rollout_filter: RolloutFilter) -> Iterator[Rollout]:
    """Yield the matching rollouts of tables of ROLLOUT_SCHEMA as records."""
    for table in tables:
        for batch in rollout_filter.apply(table).to_batches(max_chunksize=_BATCH_ROWS):
            yield from table_to_rollouts(pa.Table.from_batches([batch]))
