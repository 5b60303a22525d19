"""A look at rollouts in the terminal: those that match, whole, or one problem's samples side by side.

Model text is hostile: control characters are made visible before they reach a terminal, and nothing is ever read as
markup. Whatever is not a terminal gets plain text, one rollout below the other.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
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
from reasonray.store.schema import read_rollouts

__all__ = ["SELECTED", "Query", "plain", "show", "terminal"]

_BEHAVIOUR_STYLES = {
    "verification": "black on green",
    "backtracking": "black on red",
    "subgoals": "black on cyan",
    "backward_chaining": "black on magenta",
}
"""The colour of each behaviour's evidence."""
SELECTED = "selected"
"""Asked for as a rule: the rollouts that curation kept."""
_OUTCOMES = {"correct": "green", "wrong": "red"}
_SHOWN = 10
_NARROWEST = 40
"""Columns of a terminal that one of several samples needs."""
_HOSTILE = {
    code: "\ufffd"
    for codes in (
        range(0x20),
        range(0x7F, 0xA0),
        range(0x200B, 0x2010),  # without width, and marks of direction
        range(0x2028, 0x202F),
        range(0x2060, 0x2070),
        range(0xD800, 0xE000),
        [0xFEFF],
    )
    for code in codes
} | {ord("\n"): "\n", ord("\t"): "\t", ord("\r"): " "}


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """Which rollouts to show: those that match everything that is given."""

    arm: str | None = None
    outcome: str | None = None
    rule: str | None = None
    difficulty: str | None = None
    behaviour: str | None = None
    teacher: str | None = None
    text: str | None = None
    problem: str | None = None
    """The id of a problem, or how it begins."""

    def __str__(self) -> str:
        given = ((name, getattr(self, name)) for name in self.__slots__)
        return ", ".join(f"{name} {value}" for name, value in given if value is not None)


def terminal() -> Console:
    """Return standard output; with colour only where it is a terminal, whatever the environment asks for."""
    return Console(highlight=False, markup=False, emoji=False, force_terminal=sys.stdout.isatty())


def show(run: Run, query: Query, console: Console, *, limit: int | None = None, page: bool = False) -> None:
    """Print the first rollouts that match, how many do, and how many are not among them for they came too late.

    Args:
        run: its curated rollouts if there are any, else the sampled ones; an arm's if the query names one.
        query: what to look for.
        console: where to print.
        limit: how many at most; None for ten, or for all of one problem.
        page: through the reader's pager, if the console is a terminal.

    Raises:
        UserError: nothing matches, the query needs a curated run, or begins the ids of several problems.
    """
    if limit is None:
        limit = sys.maxsize if query.problem is not None else _SHOWN
    if limit < 1:
        raise UserError(f"--limit {limit}: give 1 or more")
    (rows, total), late = _matching(run, query, limit), _late(run, query)
    if not rows:
        asked = f" with {query}" if str(query) else ""
        cure = late or f"`reasonray status {run.place}` says what it holds"
        raise UserError(f"run {run.name} holds no rollouts{asked}; {cure}")
    problems = sorted({row["problem_id"] for row in rows})
    one = query.problem is not None
    if one and len(problems) > 1:
        raise UserError(
            f"--problem {query.problem} begins several ids, such as {' and '.join(problems[:2])}; give more"
        )
    told = ", ".join(filter(None, [f"{len(rows):,} of {total:,}", late]))
    if page and console.is_terminal:
        os.environ.setdefault("LESS", "-R")  # else less shows colours as characters
        with console.pager(styles=True):
            _print(console, rows, told, one=one)
    else:
        _print(console, rows, told, one=one)


def plain(text: str | None) -> str:
    """Return text that is safe to print: what a terminal might obey is made visible, character by character."""
    return "None" if text is None else text.translate(_HOSTILE)


def _matching(run: Run, query: Query, limit: int) -> tuple[list[dict[str, Any]], int]:
    found, total = [], 0
    for table in _tables(run, query.arm):
        if (query.rule or query.behaviour) and table.num_rows and table["annotation_dropped_by"].null_count:
            raise UserError("rules and behaviours are known once a run is curated; run jobs/curate.py first")
        matching = table.filter(_matches(table, query))
        # Of a problem's samples the first ones are wanted, so all of them are sorted before any are cut.
        found.append(matching if query.problem is not None else matching.slice(0, max(0, limit - total)))
        total += matching.num_rows
    if not total:
        return [], 0
    order = [(name, "ascending") for name in ("problem_id", "teacher", "sample", "id")]
    rows = pa.concat_tables(found).sort_by(order).to_pylist()
    if query.problem is not None:  # an ambiguous beginning must not be hidden by the cut
        several = {row["problem_id"]: row for row in rows}
        rows = rows[:limit] if len(several) == 1 else list(several.values())
    return rows, total


def _tables(run: Run, arm: str | None) -> Iterator[pa.Table]:
    curated = None if arm else run.curated_rollouts()
    if curated is None:
        yield (run.evaluation(arm) if arm else run.ledger).read()
        return
    for file in curated:
        yield read_rollouts(file)


def _late(run: Run, query: Query) -> str:
    """Say how many rollouts were drawn since the run was curated: they have no fate yet, and are not shown."""
    manifest = run.curated / "manifest.json"
    if query.arm or not manifest.exists():
        return ""
    committed = run.ledger.count()
    late = committed - manifest.read_json().get("committed", committed)
    return f"{late:,} drawn since it was curated are not among them (jobs/curate.py)" if late > 0 else ""


def _matches(table: pa.Table, query: Query) -> pa.ChunkedArray:
    kept = pc.is_valid(table["id"])
    for column, wanted in (
        ("verdict_outcome", query.outcome),
        ("problem_difficulty", query.difficulty),
        ("teacher", query.teacher),
    ):
        if wanted is not None:
            kept = pc.and_(kept, pc.equal(table[column], wanted))
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


def _print(console: Console, rows: Sequence[dict[str, Any]], told: str, *, one: bool) -> None:
    across = max(1, console.width // _NARROWEST) if one and console.is_terminal else 1
    if one:
        _put(console, _question(rows[0]))
    for first in range(0, len(rows), across):
        samples = rows[first : first + across]
        if across > 1 and len(rows) > 1:
            console.print(_side_by_side(samples))
            continue
        for row in samples:
            parts = [_heading(row), _completion(row), _verdict(row), Text()]
            for part in parts if one else [_question(row), *parts]:
                _put(console, part)
    _put(console, Text(told))


def _put(console: Console, text: Text) -> None:
    # Lines are broken for the eye only: what reads a pipe gets them as they are.
    console.print(text, soft_wrap=not console.is_terminal)


def _side_by_side(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(expand=True, show_lines=True)
    for row in rows:
        table.add_column(_heading(row), _verdict(row), ratio=1, overflow="fold", vertical="top")
    table.add_row(*(_completion(row) for row in rows))
    table.show_footer = True
    return table


def _question(row: dict[str, Any]) -> Text:
    text = Text(plain(row["problem_question"]), style="bold")
    text.append("\n")
    facts = f"{row['problem_difficulty']} · problem {row['problem_id']} · answer "
    text.append(plain(facts), "not bold dim")
    return text.append(plain(row["problem_answer"]), "bold")


def _heading(row: dict[str, Any]) -> Text:
    outcome = row["verdict_outcome"]
    text = Text.assemble(
        (plain(f"{row['teacher']} #{row['sample']} · "), "dim"), (outcome, _OUTCOMES.get(outcome, "yellow"))
    )
    text.append(f" · {row['finish']} · {row['completion_tokens']:,} tokens", "dim")
    if row["annotation_selected"]:
        text.append(f" · {SELECTED}", "green")
    elif row["annotation_dropped_by"]:
        text.append(plain(f" · dropped by {row['annotation_dropped_by']}"), "yellow")
    for behaviour in BEHAVIOURS:
        if count := row[f"annotation_{behaviour}"]:
            text.append(" · ").append(f"{behaviour.replace('_', ' ')} {count}", _BEHAVIOUR_STYLES[behaviour])
    return text


def _completion(row: dict[str, Any]) -> Text:
    """Return the completion with its evidence in colour and its answer in bold; offsets are those of the raw text."""
    text = Text(plain(row["completion"]))
    for span in row["annotation_spans"] or ():
        text.stylize(_BEHAVIOUR_STYLES.get(span["behaviour"], "reverse"), span["start"], span["end"])
    answer = row["verdict_extracted"]
    at = row["completion"].rfind(answer) if answer else -1
    if at >= 0:
        text.stylize("bold underline", at, at + len(answer))
    return text


def _verdict(row: dict[str, Any]) -> Text:
    text = Text("extracted ", style="dim").append(plain(row["verdict_extracted"]), "not dim bold")
    return text.append(plain(f" · {row['verdict_checker']} {row['verdict_detail']}".rstrip()))
