"""Rollouts in the terminal: those that match a query, or one problem's samples side by side.

Model text is hostile: control characters are replaced before they reach a terminal, and no text is read as markup.
Output that is not a terminal is plain text, one rollout below the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from reasonray.errors import UserError
from reasonray.records import BEHAVIOURS
from reasonray.store.run import Run

__all__ = ["SELECTED", "Query", "matches", "printable", "put", "show", "terminal"]

_BEHAVIOUR_STYLES = {
    "verification": "black on green",
    "backtracking": "black on red",
    "subgoals": "black on cyan",
    "backward_chaining": "black on magenta",
}
"""The colour of each behaviour's evidence."""
SELECTED = "selected"
"""The value of `rule` for the rollouts that curation selected."""
_OUTCOME_STYLES = {"correct": "green", "wrong": "red"}
_DEFAULT_LIMIT = 10
_MIN_COLUMNS = 40
"""Width of one of several samples that are shown side by side."""
_REPLACEMENTS = {
    code: "\ufffd"
    for codes in (
        range(0x20),
        range(0x7F, 0xA0),
        range(0x200B, 0x2010),  # characters without width, and marks of direction
        range(0x2028, 0x202F),
        range(0x2060, 0x2070),
        range(0xD800, 0xE000),
        [0xFEFF],
    )
    for code in codes
} | {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): " "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """The values that rollouts must have; None accepts every value."""

    arm: str | None = None
    outcome: str | None = None
    rule: str | None = None
    difficulty: str | None = None
    behaviour: str | None = None
    teacher: str | None = None
    text: str | None = None
    problem: str | None = None
    """The beginning of a problem's id."""

    def __str__(self) -> str:
        values = ((name, getattr(self, name)) for name in self.__slots__)
        return ", ".join(f"{name} {value}" for name, value in values if value is not None)


def terminal() -> Console:
    """Return standard output; coloured only if it is a terminal, even if the environment forces colours."""
    return Console(highlight=False, markup=False, emoji=False, force_terminal=sys.stdout.isatty())


def show(run: Run, query: Query, console: Console, *, limit: int | None = None, page: bool = False) -> None:
    """Print the first rollouts that match, how many match, and how many were sampled too late to be curated.

    Args:
        run: its curated rollouts are searched if there are any, else its ledger; or the rollouts of the query's arm.
        query: the values that rollouts must have.
        console: where to print.
        limit: number of rollouts, at most; None for ten, or for all of one problem.
        page: print through the user's pager, if the console is a terminal.

    Raises:
        UserError: nothing matches, the query needs a curated run, or its problem is the beginning of several ids.
    """
    if limit is None:
        limit = sys.maxsize if query.problem is not None else _DEFAULT_LIMIT
    if limit < 1:
        raise UserError(f"--limit {limit}: give 1 or more")
    (rows, total), not_curated = _matching(run, query, limit), _count_not_curated(run, query)
    if not rows:
        condition = f" with {query}" if str(query) else ""
        cure = not_curated or f"see `reasonray status {run.place}`"
        raise UserError(f"run {run.name} holds no rollouts{condition}; {cure}")
    problems = sorted({row["problem_id"] for row in rows})
    one = query.problem is not None
    if one and len(problems) > 1:
        raise UserError(
            f"--problem {query.problem} is the beginning of several ids, such as {' and '.join(problems[:2])}; "
            "give more of the id"
        )
    footer = ", ".join(filter(None, [f"{len(rows):,} of {total:,}", not_curated]))
    if page and console.is_terminal:
        os.environ.setdefault("LESS", "-R")  # without it less prints escape codes instead of colours
        with console.pager(styles=True):
            _print(console, rows, footer, one=one)
    else:
        _print(console, rows, footer, one=one)


def printable(text: str | None) -> str:
    """Return text that is safe to print: each character that could control a terminal is replaced by one sign."""
    return "None" if text is None else text.translate(_REPLACEMENTS)


def _matching(run: Run, query: Query, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Return the first rows that match, and how many match."""
    found, total = [], 0
    for table in run.evaluation(query.arm).tables() if query.arm else run.rollout_tables():
        if (query.rule or query.behaviour) and table.num_rows and table["annotation_dropped_by"].null_count:
            raise UserError("rules and behaviours are known once a run is curated; run jobs/curate.py first")
        matching = table.filter(matches(table, query))
        # A problem's samples are shown in order of samples, so all of them are sorted before the limit applies.
        found.append(matching if query.problem is not None else matching.slice(0, max(0, limit - total)))
        total += matching.num_rows
    if not total:
        return [], 0
    order = [(name, "ascending") for name in ("problem_id", "teacher", "sample", "id")]
    rows = pa.concat_tables(found).sort_by(order).to_pylist()
    if query.problem is not None:  # the limit must not hide that the beginning of the id is ambiguous
        by_problem = {row["problem_id"]: row for row in rows}
        rows = rows[:limit] if len(by_problem) == 1 else list(by_problem.values())
    return rows, total


def _count_not_curated(run: Run, query: Query) -> str:
    """Return a note on the rollouts that were sampled after curation, which are not shown; "" if there are none."""
    manifest = run.curated / "manifest.json"
    if query.arm or not manifest.exists():
        return ""
    committed = run.ledger.count()
    not_curated = committed - manifest.read_json().get("committed", committed)
    return (
        f"{not_curated:,} sampled since it was curated are not among them (jobs/curate.py)" if not_curated > 0 else ""
    )


def matches(table: pa.Table, query: Query) -> pa.ChunkedArray:
    """Return for each row of a table of ROLLOUT_SCHEMA whether it matches."""
    kept = pc.is_valid(table["id"])
    for column, value in (
        ("verdict_outcome", query.outcome),
        ("problem_difficulty", query.difficulty),
        ("teacher", query.teacher),
    ):
        if value is not None:
            kept = pc.and_(kept, pc.equal(table[column], value))
    if query.rule == SELECTED:
        kept = pc.and_(kept, table["annotation_selected"])
    elif query.rule is not None:
        kept = pc.and_(kept, pc.equal(table["annotation_dropped_by"], query.rule))
    if query.behaviour is not None:
        kept = pc.and_(kept, pc.greater(table[f"annotation_{query.behaviour}"], 0))
    if query.problem is not None:
        kept = pc.and_(kept, pc.starts_with(table["problem_id"], query.problem))
    if query.text is not None:
        places = [
            pc.match_substring(table[column], query.text, ignore_case=True)
            for column in ("completion", "problem_question")
        ]
        kept = pc.and_(kept, pc.or_(*places))
    return kept


def _print(console: Console, rows: Sequence[dict[str, Any]], footer: str, *, one: bool) -> None:
    across = max(1, console.width // _MIN_COLUMNS) if one and console.is_terminal else 1
    if one:
        put(console, _question(rows[0]))
    for first in range(0, len(rows), across):
        samples = rows[first : first + across]
        if across > 1 and len(rows) > 1:
            console.print(_side_by_side(samples))
            continue
        for row in samples:
            parts = [_heading(row), _completion(row), _verdict(row), Text()]
            for part in parts if one else [_question(row), *parts]:
                put(console, part)
    put(console, Text(footer))


def put(console: Console, text: Text) -> None:
    """Print a text. Lines are wrapped on a terminal only; a pipe gets them unchanged."""
    console.print(text, soft_wrap=not console.is_terminal)


def _side_by_side(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(expand=True, show_lines=True)
    for row in rows:
        table.add_column(_heading(row), _verdict(row), ratio=1, overflow="fold", vertical="top")
    table.add_row(*(_completion(row) for row in rows))
    table.show_footer = True
    return table


def _question(row: dict[str, Any]) -> Text:
    text = Text(printable(row["problem_question"]), style="bold")
    text.append("\n")
    facts = f"{row['problem_difficulty']} · problem {row['problem_id']} · answer "
    text.append(printable(facts), "not bold dim")
    return text.append(printable(row["problem_answer"]), "bold")


def _heading(row: dict[str, Any]) -> Text:
    outcome = row["verdict_outcome"]
    text = Text.assemble(
        (printable(f"{row['teacher']} #{row['sample']} · "), "dim"),
        (outcome, _OUTCOME_STYLES.get(outcome, "yellow")),
    )
    text.append(f" · {row['finish']} · {row['completion_tokens']:,} tokens", "dim")
    if row["annotation_selected"]:
        text.append(f" · {SELECTED}", "green")
    elif row["annotation_dropped_by"]:
        text.append(printable(f" · dropped by {row['annotation_dropped_by']}"), "yellow")
    for behaviour in BEHAVIOURS:
        if count := row[f"annotation_{behaviour}"]:
            text.append(" · ").append(f"{behaviour.replace('_', ' ')} {count}", _BEHAVIOUR_STYLES[behaviour])
    return text


def _completion(row: dict[str, Any]) -> Text:
    """Return the completion with behaviours in colour and the answer in bold; `printable` keeps character offsets.

    What the prompt opened of it comes first, dimmed.
    """
    text = Text(printable(row["opening"]), style="dim")
    completion = Text(printable(row["completion"]), style="not dim")
    for span in row["annotation_spans"] or ():
        completion.stylize(_BEHAVIOUR_STYLES.get(span["behaviour"], "reverse"), span["start"], span["end"])
    answer = row["verdict_extracted"]
    begin = row["completion"].rfind(answer) if answer else -1
    if begin >= 0:
        completion.stylize("bold underline", begin, begin + len(answer))
    return text.append_text(completion)


def _verdict(row: dict[str, Any]) -> Text:
    text = Text("extracted ", style="dim").append(printable(row["verdict_extracted"]), "not dim bold")
    return text.append(printable(f" · {row['verdict_checker']} {row['verdict_detail']}".rstrip()))
