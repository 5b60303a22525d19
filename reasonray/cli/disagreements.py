"""The answers on which rules, judge and majority differ, in the terminal: counts by kind, then the first ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
from rich.console import Console
from rich.text import Text

from reasonray.analysis.disagreements import Disagreement, DisagreementKind, disagreements, kinds, opinions
from reasonray.cli.show import Query, matches, printable, put
from reasonray.errors import UserError
from reasonray.records import Interval, Split
from reasonray.store.run import Run
from reasonray.store.verdicts import read_verified

_COLUMNS = (
    "id", "resample", "problem_id", "problem_difficulty", "teacher", "sample", "verdict_outcome", "verdict_extracted",
)  # fmt: skip
_TEXTS = ("completion", "problem_question")
_DEFAULT_LIMIT = 10
_MAX_ANSWER = 60
_MAX_QUESTION = 96


def show_disagreements(run: Run, query: Query, console: Console, *, limit: int | None = None) -> None:
    """Print how often opinions differ, and the answers of which they do.

    Args:
        run: its committed rollouts, with the findings of its last verification, if there was one.
        query: the values that rollouts must have.
        console: where to print.
        limit: number of answers, at most; None for ten.

    Raises:
        UserError: the run holds no such rollouts, or the query asks for what committed rollouts do not have.
    """
    if query.arm or query.rule or query.behaviour:
        raise UserError("--disagreements looks at the teachers' rollouts; leave out --arm, --rule and --behaviour")
    if limit is not None and limit < 1:
        raise UserError(f"--limit {limit}: give 1 or more")
    problems = {problem.id: problem for problem in run.problems(Split.TRAIN)} if run.has_problems else {}
    verified = read_verified(run)
    min_share = run.config.checking.majority
    rollouts = run.ledger.read([*_COLUMNS, *(_TEXTS if query.text else ())])
    table = opinions(rollouts, verified, problems, min_share=0.5 if min_share is None else min_share)
    table = table.filter(matches(table, query))
    if not table.num_rows:
        condition = f" with {query}" if str(query) else ""
        raise UserError(f"run {run.name} holds no rollouts{condition}; see `reasonray status {run.place}`")
    _print_kinds(console, table, kinds(table), has_verified=bool(verified.num_rows))
    found = disagreements(table, problems)
    shown = found[: _DEFAULT_LIMIT if limit is None else limit]
    for disagreement in shown:
        put(console, _described(disagreement))
    put(console, Text(f"{len(shown):,} of {len(found):,} answers that opinions differ on", "dim"))
    if shown:
        put(console, Text(f"open one: reasonray show {run.place} --problem ID", "dim"))


def _print_kinds(console: Console, table: pa.Table, counted: Sequence[DisagreementKind], *, has_verified: bool) -> None:
    """Print the counts as a table of aligned columns."""
    width = max((len(_kind(kind)) for kind in counted), default=0)
    put(console, Text(f"{'':{width}}  rollouts  problems   share [95 % interval] of those asked", "dim"))
    for kind in counted:
        line = Text(f"{_kind(kind):{width}}  {kind.rollouts:>8,}  {kind.problems:>8,}   ")
        put(console, line.append(_share(kind.share) + f" of {kind.asked:,}" if kind.share else "none in the audit"))
    if not has_verified:
        note = "these are the rules and the majority; `reasonray verify` audits the rules, and asks a judge"
        put(console, Text(note, "dim"))
    put(console, Text())


def _kind(kind: DisagreementKind) -> str:
    return f"{kind.accepts} accepts, {kind.refuses} refuses".replace("rules accepts", "rules accept").replace(
        "rules refuses", "rules refuse"
    )


def _share(share: Interval) -> str:
    return f"{share.mean:>6.1%} [{share.low:.1%}, {share.high:.1%}]".replace("%", " %")


def _described(disagreement: Disagreement) -> Text:
    problem = disagreement.problem
    text = Text.assemble(
        (problem.id, "bold"),
        (f"  {_short(problem.question, _MAX_QUESTION)}\n", ""),
        ("  gold    ", "dim"),
        (_short(problem.answer, _MAX_ANSWER), ""),
        ("\n  answer  ", "dim"),
        (_short(disagreement.answer, _MAX_ANSWER), ""),
        (f"   {len(disagreement.samples)} of {disagreement.answers} answers: {_samples(disagreement.samples)}", "dim"),
        ("\n  ", ""),
    )
    return _with_opinions(text, disagreement.opinions, disagreement.votes).append("\n")


def _with_opinions(text: Text, opinions: Mapping[str, bool], votes: int) -> Text:
    for number, (name, accepts) in enumerate(opinions.items()):
        verb = "accept" if accepts else "refuse"
        text.append(" · " if number else "", "dim")
        text.append(f"{name} {verb}{'' if name == 'rules' else 's'}", "green" if accepts else "red")
        if name == "majority":
            text.append(f" ({votes} votes)", "dim")
    return text


def _samples(samples: Sequence[str], most: int = 4) -> str:
    shown = ", ".join(printable(sample) for sample in samples[:most])
    return f"{shown}, …" if len(samples) > most else shown


def _short(text: str | None, most: int) -> str:
    """Return a text on one line, safe to print."""
    line = " ".join(printable(text).split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
