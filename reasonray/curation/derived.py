"""What is made from a curated run for other trainers and objectives: layouts, pairs, samples, problems with pass rates.

    <run>/curated/{sharegpt,alpaca}/                the examples as JSON Lines
    <run>/curated/{preference,kto,verl,prime_rl}/   train-*.parquet, validation-*.parquet
    <run>/curated/policy_gradient/                  the same, for training.objective = "policy_gradient"
    <run>/curated/<set>/manifest.json               their files and counts; written last

Text is read a few hundred problems at a time, in tasks; the driver sees short columns.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.config import Config, Curation
from reasonray.curation.export import LAYOUTS, json_lines, split_off
from reasonray.curation.policy_samples import REWARDED, policy_samples
from reasonray.curation.preferences import labelled_rollouts, preference_pairs
from reasonray.curation.rl_sets import IN_BAND, fates, rl_problems
from reasonray.records import Outcome, Problem, Split, content_hash
from reasonray.store.run import Run
from reasonray.store.storage import Place

MapBatches: TypeAlias = Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]]
"""Applies a function to batches, several at a time if it can."""

_PROBLEMS = 500
"""Of which one task reads all rollouts."""
_NARROW = ("problem_id", "verdict_outcome", "annotation_pass_rate")
POLICY = "policy_gradient"
"""The set that a training with this objective reads."""
_RL = ("verl", "prime_rl")
SETS = ("preference", "kto", *_RL)
"""The sets for other trainers."""
_VERSION = 1
"""Raised when the same run would give another set."""


@dataclass(frozen=True, slots=True)
class _Summary:
    """What of the rollouts decides where text has to be read."""

    parts: Mapping[str, set[str]]
    """Problem id → the files that hold its rollouts."""
    outcomes: Mapping[str, set[str]]
    pass_rates: Mapping[str, float]


def write_sets(
    run: Run, curated: Mapping[str, Any], contaminated: Collection[str], map_batches: MapBatches
) -> list[str]:
    """Write the sets of the configuration that are not there yet, and delete those that it does not name.

    Args:
        run: a curated run.
        curated: the manifest of curated/.
        contaminated: ids of train problems that overlap with held-out ones; no set holds them.
        map_batches: applies a function to batches, in tasks if it can.

    Returns:
        A line about each set that was written now.
    """
    wanted = {*run.config.curation.layouts, run.config.training.objective}
    for name in (*SETS, POLICY):
        if name not in wanted and (run.curated / name).exists():
            (run.curated / name).delete()
    pending = [
        name
        for name in (*SETS, POLICY)
        if name in wanted and _inputs(run, name, curated) != set_manifest(run, name).get("inputs")
    ]
    if not pending:
        return []
    summary, lines = _summary(run.curated / "rollouts", curated["rollouts"]), []
    for name in pending:
        (run.curated / name).delete()
        write = _write_problems if name in _RL else _write_rollouts
        manifest = write(run, name, summary, contaminated, map_batches)
        _check_balance(name, manifest)
        manifest["inputs"] = _inputs(run, name, curated)
        (run.curated / name / "manifest.json").write(json.dumps(manifest, indent=2).encode())
        lines.append(describe_set(name, manifest))
    return lines


def set_manifest(run: Run, name: str) -> dict[str, Any]:
    """Return the manifest of a set, an empty one if the set is not there."""
    return (run.curated / name / "manifest.json").read_json_or_none() or {}


def describe_set(name: str, manifest: Mapping[str, Any]) -> str:
    """Return the size of a set, and what became of the problems, in one line."""
    fate = ", ".join(f"{count:,} {reason}" for reason, count in manifest["problems"].items())
    return f"{manifest['rows']:>7,} rows of {name}   {manifest['of']:,} problems: {fate}"


def _inputs(run: Run, name: str, curated: Mapping[str, Any]) -> str:
    """Return a hash of what decides a set."""
    curation, keys = run.config.curation, {"preference": ("pairs_per_problem", "pair_by"), "kto": (), POLICY: ()}
    settings = {key: getattr(curation, key) for key in (*keys.get(name, ("rl_pass_rates",)), "validation", "seed")}
    rewards = (run.config.training.advantage, *REWARDED) if name == POLICY else ()
    return content_hash(_VERSION, curated["inputs"], json.dumps(settings), *rewards)


def _summary(folder: Place, names: Sequence[str]) -> _Summary:
    parts, outcomes = defaultdict[str, set[str]](set), defaultdict[str, set[str]](set)
    pass_rates: dict[str, float] = {}
    for name in names:
        for problem_id, outcome, pass_rate in zip(
            *(folder / name).read_table(_NARROW).to_pydict().values(), strict=True
        ):
            parts[problem_id].add(name)
            outcomes[problem_id].add(outcome)
            if pass_rate is not None:
                pass_rates[problem_id] = pass_rate
    return _Summary(parts, outcomes, pass_rates)


def _write_rollouts(
    run: Run, name: str, summary: _Summary, contaminated: Collection[str], map_batches: MapBatches
) -> dict[str, Any]:
    """Write a set that is made from the text of rollouts."""
    config = run.config
    fate = {id_: _reason(id_, summary, contaminated, name, config.curation) for id_ in summary.parts}
    chosen = sorted((id_ for id_, reason in fate.items() if not reason), key=lambda id_: (min(summary.parts[id_]), id_))
    batches = [
        (number, {id_: summary.parts[id_] for id_ in chosen[start : start + _PROBLEMS]})
        for number, start in enumerate(range(0, len(chosen), _PROBLEMS))
    ]
    curated = run.curated

    def write(batch: tuple[int, Mapping[str, set[str]]]) -> dict[str, Any]:
        return _write_batch(curated, name, config, batch)

    written = map_batches(write, batches)
    paired = {id_ for batch in written for id_ in batch["problems"]}
    counts = Counter(
        reason or ("used" if id_ in paired else "without two that are fit") for id_, reason in fate.items()
    )
    content = content_hash(*sorted(one for batch in written for one in batch["content"]))
    return _manifest(written, len(fate), counts) | ({"content": content} if name == POLICY else {})


def _reason(id_: str, summary: _Summary, contaminated: Collection[str], name: str, curation: Curation) -> str:
    """Return why no rollout of a problem is needed, "" if they have to be read."""
    if id_ in contaminated:
        return "contaminated"
    pass_rate, outcomes = summary.pass_rates.get(id_), summary.outcomes[id_]
    if name == "preference":
        missing = {Outcome.CORRECT: "never solved", Outcome.WRONG: "never answered wrongly"}
        return next((reason for outcome, reason in missing.items() if outcome not in outcomes), "")
    if name == POLICY and not pass_rate:
        return "never judged" if pass_rate is None else "never solved"
    judges_reasoning = not {"false_arithmetic", "leaked_answer"}.isdisjoint(curation.rules)
    if name == POLICY and pass_rate == 1 and not judges_reasoning:
        return "always solved"
    is_in_band = pass_rate is None or curation.min_pass_rate <= pass_rate <= curation.max_pass_rate
    return "pass rate" if name == POLICY and "pass_rate" in curation.rules and not is_in_band else ""


def _maker(name: str, config: Config) -> Callable[[pa.Table], pa.Table]:
    """Return the function of all rollouts of some problems that makes the rows of a set."""
    prompt, curation, normalisation = config.student.prompt, config.curation, config.training.advantage
    return {
        "preference": lambda rollouts: preference_pairs(rollouts, prompt, curation),
        "kto": lambda rollouts: labelled_rollouts(rollouts, prompt, curation),
        POLICY: lambda rollouts: policy_samples(rollouts, prompt, curation, normalisation),
    }[name]


def _write_batch(
    curated: Place, name: str, config: Config, batch: tuple[int, Mapping[str, set[str]]]
) -> dict[str, Any]:
    """Write the rows of some problems; return their files, their number, hashes, and the problems that have one."""
    number, parts = batch
    wanted = pa.array(sorted(parts), pa.string())
    tables = [(curated / "rollouts" / part).read_table() for part in sorted(set[str]().union(*parts.values()))]
    rollouts = pa.concat_tables([table.filter(pc.is_in(table["problem_id"], wanted)) for table in tables])
    rows = _maker(name, config)(rollouts)
    problems, content = set(rows["problem_id"].to_pylist()), _row_hashes(rows) if name == POLICY else []
    files = _write_splits(curated / name, number, rows, config.curation)
    return {"rows": rows.num_rows, "problems": problems, "content": content} | files


def _row_hashes(samples: pa.Table) -> list[str]:
    """Return a hash of what a student learns from each sample."""
    columns = (samples[name].to_pylist() for name in ("id", "prompt", "completion_text", "advantage"))
    return [content_hash(*map(str, row)) for row in zip(*columns, strict=True)]


def _write_splits(folder: Place, number: int, rows: pa.Table, curation: Curation) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for split, part in zip(("train", "validation"), split_off(rows, curation.validation, curation.seed), strict=True):
        files[split] = [f"{split}-{number:05d}.parquet"] if part.num_rows else []
        for file in files[split]:
            (folder / file).write_table(part)
    return files


def _write_problems(
    run: Run, name: str, summary: _Summary, contaminated: Collection[str], map_batches: MapBatches
) -> dict[str, Any]:
    """Write a set of problems."""
    curation, problems = run.config.curation, run.problems(Split.TRAIN)
    fate = fates(problems, summary.pass_rates, contaminated, curation.rl_pass_rates)
    chosen = [problem for problem in problems if fate[problem.id] == IN_BAND]
    ids = pa.table({"problem_id": pa.array([problem.id for problem in chosen], pa.string())})
    files: dict[str, Any] = {"rows": len(chosen)}
    for split, part in zip(("train", "validation"), split_off(ids, curation.validation, curation.seed), strict=True):
        of_split = set(part["problem_id"].to_pylist())
        members: list[Problem] = [problem for problem in chosen if problem.id in of_split]
        rows = rl_problems(members, summary.pass_rates, run.config.student.prompt, name, split)
        files[split] = [f"{split}-00000.parquet"] if members else []
        for file in files[split]:
            (run.curated / name / file).write_table(rows)
    return _manifest([files], len(fate), Counter(fate.values()))


def _manifest(written: Iterable[Mapping[str, Any]], problems: int, fate: Counter[str]) -> dict[str, Any]:
    written = list(written)
    return {
        "rows": sum(batch["rows"] for batch in written),
        "of": problems,
        "problems": dict(fate.most_common()),
        "train": [file for batch in written for file in batch["train"]],
        "validation": [file for batch in written for file in batch["validation"]],
    }


def _check_balance(name: str, manifest: Mapping[str, Any]) -> None:
    if manifest["of"] != sum(manifest["problems"].values()):
        raise RuntimeError(f"{name}: {manifest['of']} problems, {manifest['problems']}: no balance")


def write_layouts(run: Run, curated: Mapping[str, Any], map_batches: MapBatches) -> None:
    """Write the examples as JSON Lines in the layouts of the configuration, where those files do not exist yet.

    Args:
        run: a run whose data set is written.
        curated: the manifest of curated/.
        map_batches: applies a function to batches, in tasks if it can.
    """
    folder, pending = run.curated, []
    for layout in (layout for layout in run.config.curation.layouts if layout in LAYOUTS):
        existing = {file.name for file in (run.curated / layout).list()}
        names = [*curated["data"], *curated["validation"]]
        pending += [(name, layout) for name in names if lines_name(name) not in existing]

    def write(file: tuple[str, str]) -> None:
        name, layout = file
        (folder / layout / lines_name(name)).write(json_lines((folder / "data" / name).read_table(), layout))

    map_batches(write, pending)


def lines_name(name: str) -> str:
    """Return the name of the JSON Lines of a file of examples."""
    return f"{name.removesuffix('.parquet')}.jsonl"
