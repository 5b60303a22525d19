"""Curation stage, rollouts → data set, on Ray Data: annotate, drop with a reason, select, export.

Two passes over the text, none of it on the driver. The first annotates and applies the rules that judge one rollout;
the driver selects from the features of all rollouts; the second writes every rollout with what was decided, and the
data set.

    <run>/curated/rollouts/*.parquet   every rollout, annotated, with `dropped_by`
    <run>/curated/data/*.parquet       the selected ones: train-*, and validation-* if some are set aside
    <run>/curated/{sharegpt,…}/        the same, pairs and problems for other trainers (curation/derived.py)
    <run>/curated/contamination.parquet  which problems overlap with held-out ones, and the words that they share
    <run>/curated/README.md            the data-set card
    <run>/curated/manifest.json        names all of them; written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from reasonray.analysis.funnel import count_funnel
from reasonray.analysis.metrics_json import COLUMNS
from reasonray.config import Curation, Prompt, UserError
from reasonray.curation.behaviours import DETECTORS_VERSION, annotate_table
from reasonray.curation.card import CARD_COLUMNS, card
from reasonray.curation.decontamination import Item, build_index, find_overlaps, held_out_items
from reasonray.curation.derived import SETS, describe_set, lines_name, set_manifest, write_layouts, write_sets
from reasonray.curation.export import EXPORT_SCHEMA, LAYOUTS, examples, split_off
from reasonray.curation.features import rollout_features
from reasonray.curation.measures import measure_table
from reasonray.curation.paraphrases import contaminating, stored_findings
from reasonray.curation.rules import check_names, user_modules
from reasonray.curation.selection import distinct_rollouts, select
from reasonray.curation.text import normalised_words
from reasonray.curation.trainer_configs import write_trainer_configs
from reasonray.curation.validation import read_batches
from reasonray.records import Split, content_hash
from reasonray.sampling.cluster import in_tasks, quiet_ray_data
from reasonray.store.progress import Progress, log_line
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, SCHEMA_VERSION, row_hashes, set_columns
from reasonray.store.storage import Place
from reasonray.store.verdicts import newer_verdicts, with_verdicts

_BATCH = 4096
"""Rollouts that are annotated, and written as one part, at once."""
_CHUNK = 5000
"""Problems that one task of decontamination looks up."""
_TRIAL_ROWS = 64
"""Rollouts on which the user's own functions are tried."""
_PART_ORDER = [("part", "ascending"), ("row", "ascending")]
_FOR_OTHERS = {"layouts", "pairs_per_problem", "pair_by", "rl_pass_rates"}
_WITHOUT_EFFECT = _FOR_OTHERS | {"labeller", "labelled", "paraphrase_judge", "paraphrase_sample"}
"""Keys of [curation] that do not change what becomes of any rollout; what a judge of paraphrases found does."""
_BLOCK_BYTES = 16 << 20
"""Compressed segments in a block of Ray Data, at least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curated:
    """A data set that has been written, by this call or an earlier one with the same inputs."""

    path: str
    """The directory curated/: the data set, its card README.md, and every rollout with its annotations."""
    rollouts: int
    """Distinct rollouts, each of which is either selected or dropped."""
    selected: int
    """Rollouts that became examples, for training or validation."""
    dropped: Mapping[str, int]
    """Rollouts by the rule that dropped them, the commonest first; `over_quota` counts the good ones not taken."""
    validation: int
    """Examples that are set aside for validation."""
    skipped: Mapping[str, int]
    """Rows and segments that could not be used, by the column or file at fault; they are not among the rollouts."""
    train_files: tuple[str, ...]
    """Parquet files of the examples to train on."""
    validation_files: tuple[str, ...]
    """Parquet files of the examples that are set aside."""


def curate(run: Run) -> Curated:
    """Make the data set from the rollouts that are stored, unless it was made from the same inputs before.

    Raises:
        UserError: there are no rollouts, a rule is unknown, or no rollout survives.
    """
    segments = run.ledger.segments()
    if not segments:
        raise UserError(f"run {run.name} holds no rollouts yet; run jobs/sample.py first")
    curation = run.config.curation
    check_names(curation)
    verdicts = newer_verdicts(run)
    held_out = held_out_items(run) if "contaminated" in curation.rules else []
    train = [problem.id for problem in run.problems(Split.TRAIN)]
    inputs = _inputs(run, segments, verdicts, held_out, train)
    manifest = (run.curated / "manifest.json").read_json_or_none()
    if manifest and manifest["inputs"] == inputs:
        _check_not_empty(manifest)
        overlaps = _stored_overlaps(run)
        _write_for_others(run, manifest, overlaps)
        _remove_others(run, manifest)
        log_line("curate", "done before")
        return _curated(run, manifest)
    with Progress("curate", run.events) as progress:
        progress.show("annotating", {"state": "annotating"}, now=True)
        quiet_ray_data()
        if user_modules(curation):
            _try_user_functions(segments[0], frozenset(train), curation)
        scratch = run.curated / "annotated"
        scratch.delete()
        features = _annotate(segments, verdicts, frozenset(train), curation, scratch)
        progress.show(f"selecting from {features.num_rows:,} rollouts", {"state": "selecting"}, now=True)
        overlaps = _find_contamination(run, held_out) if "contaminated" in curation.rules else None
        decisions, faults = _decide(features, curation, _ids(overlaps)), _read_faults(scratch)
        written = _write(run, inputs, decisions, scratch, run.config.student.prompt)
        scratch.delete()
        manifest = _settle(run, inputs, decisions, written, faults, overlaps)
        _write_for_others(run, manifest, overlaps)
        progress.record({"state": "done"})
    return _curated(run, manifest)


def _curated(run: Run, manifest: Mapping[str, Any]) -> Curated:
    """Return the record of a curation from its manifest."""
    data = run.curated / "data"
    return Curated(
        path=str(run.curated),
        rollouts=manifest["rows"],
        selected=manifest["selected"],
        dropped=manifest["dropped"],
        validation=manifest["set_aside"],
        skipped=manifest["unreadable"],
        train_files=tuple(str(data / name) for name in manifest["data"]),
        validation_files=tuple(str(data / name) for name in manifest["validation"]),
    )


def _inputs(run: Run, segments: list[Place], verdicts: pa.Table, held_out: Sequence[Item], train: Sequence[str]) -> str:
    """Return a hash of everything that decides what becomes of the rollouts; files of the user's by their content."""
    curation = run.config.curation
    unset = set() if curation.loss_weight else {"loss_weight"}  # earlier versions did not have it
    timeless = verdicts.drop("verdict_seconds")  # which differ even where the same verdict is reached again
    return content_hash(
        SCHEMA_VERSION,
        DETECTORS_VERSION,
        curation.model_dump_json(exclude=_WITHOUT_EFFECT | unset),
        run.config.student.prompt.model_dump_json(),
        *(segment.name for segment in segments),
        *(content_hash(*map(str, row)) for row in zip(*timeless.to_pydict().values(), strict=True)),
        *(content_hash(*module) for module in user_modules(curation)),
        *(content_hash(item.benchmark, item.id, item.text) for item in held_out),
        *(content_hash("paraphrase", problem_id) for problem_id in contaminating(run)["problem_id"].to_pylist()),
        *train,
    )


def _try_user_functions(segment: Place, train: Collection[str], curation: Curation) -> None:
    """Apply the user's own functions to a few rollouts on the driver, so that their errors reach the user plainly."""
    for rollouts in islice(read_batches(segment, _TRIAL_ROWS, train, Counter()), 1):
        rollout_features(measure_table(annotate_table(rollouts), curation.repetition_ngram), curation)


def _annotate(
    segments: list[Place], verdicts: pa.Table, train: frozenset[str], curation: Curation, scratch: Place
) -> pa.Table:
    """Write annotated rollouts in parts; return the features of all, with the part and row of each."""
    verdicts_ref, train_ref, filesystem = ray.put(verdicts), ray.put(train), segments[0].filesystem

    def annotate(batch: pa.Table) -> Iterator[pa.Table]:
        faults: Counter[str] = Counter()
        for segment in (Place(filesystem, path) for path in batch["segment"].to_pylist()):
            for number, rollouts in enumerate(read_batches(segment, _BATCH, ray.get(train_ref), faults)):
                annotated = annotate_table(with_verdicts(rollouts, ray.get(verdicts_ref)))
                table = measure_table(annotated, curation.repetition_ngram)
                part = f"{segment.name.removesuffix('.parquet')}-{number:05d}.parquet"
                (scratch / part).write_table(table)
                features = rollout_features(table, curation).append_column("content", row_hashes(rollouts))
                features = features.append_column("part", pa.array([part] * table.num_rows, pa.large_string()))
                yield features.append_column("row", pa.array(range(table.num_rows)))
        if faults:
            name = f"{content_hash(*batch['segment'].to_pylist())}.json"
            (scratch / "faults" / name).write(json.dumps(faults).encode())

    sizes = filesystem.get_file_info([segment.path for segment in segments])
    dataset = ray.data.from_items(
        [{"segment": segment.path} for segment in segments],
        # A worker process costs seconds to start: few blocks for little data, more as there is more.
        override_num_blocks=min(len(segments), 1 + sum(info.size for info in sizes) // _BLOCK_BYTES),
    )
    annotated = dataset.map_batches(annotate, batch_size=None, batch_format="pyarrow", num_cpus=1)
    tables = [table for table in ray.get(annotated.to_arrow_refs()) if table.num_rows]
    if not tables:
        raise UserError(f"no rollout of {len(segments)} segments can be read: {_read_faults(scratch)}")
    return pa.concat_tables(tables, promote_options="default")


def _find_contamination(run: Run, items: Sequence[Item]) -> pa.Table:
    """Return the overlaps of a run's train problems with held-out items (CONTAMINATION_SCHEMA), with paraphrases."""
    problems = [(problem.id, problem.question) for problem in run.problems(Split.TRAIN)]
    lengths = {len(normalised_words(question)) for _, question in problems}
    index = ray.put(build_index(items, run.config.curation.ngrams, lengths))
    chunks = [problems[start : start + _CHUNK] for start in range(0, len(problems), _CHUNK)]
    task = ray.remote(find_overlaps).options(num_cpus=1)
    tables = ray.get([task.remote(index, chunk) for chunk in chunks])
    return pa.concat_tables([contaminating(run), *tables])


def _read_faults(scratch: Place) -> dict[str, int]:
    """Return how many rows and files were skipped, by what is wrong with them."""
    total: Counter[str] = Counter()
    for file in (scratch / "faults").list(".json"):
        total.update(file.read_json())
    return dict(total.most_common())


def _decide(features: pa.Table, curation: Curation, contaminated: Collection[str]) -> pa.Table:
    """Return one row per distinct rollout, by part and row: part, row, problem_id, content, and what select decides."""
    distinct = distinct_rollouts(features)
    selection = select(distinct, curation, contaminated=contaminated)
    columns = {name: distinct[name] for name in ("part", "row", "problem_id", "content")}
    columns |= {name: selection[name] for name in ("dropped_by", "selected", "pass_rate")}
    return pa.table(columns).sort_by(_PART_ORDER).combine_chunks()


def _write(run: Run, inputs: str, decisions: pa.Table, scratch: Place, prompt: Prompt) -> list[dict[str, Any]]:
    """Write every part again with what was decided, and its selected rollouts as examples."""
    decisions_ref = ray.put(decisions.drop(["part", "problem_id", "content"]))
    curated, curation = run.curated, run.config.curation

    def write(row: dict[str, Any]) -> dict[str, Any]:
        part = ray.get(decisions_ref).slice(row["first"], row["rows"])
        table = _with_decisions((scratch / row["part"]).read_table(), part)
        name = f"{inputs[:8]}-{row['number']:05d}.parquet"
        (curated / "rollouts" / name).write_table(table)
        selected = examples(table.filter(table["annotation_selected"]), prompt, curation.loss_weight)
        train, validation = split_off(selected, curation.validation, curation.seed)
        for split, rows in (("train", train), ("validation", validation)):
            if rows.num_rows:
                (curated / "data" / f"{split}-{name}").write_table(rows)
        return {
            "rollouts": name,
            "rows": table.num_rows,
            "train": f"train-{name}" if train.num_rows else "",
            "validation": f"validation-{name}" if validation.num_rows else "",
            "set_aside": validation.num_rows,
            "tokens": pc.sum(train["completion_tokens"]).as_py() or 0,
        }

    parts = _parts(decisions)
    dataset = ray.data.from_items(parts, override_num_blocks=1 + len(parts) // 8)
    return sorted(dataset.map(write, num_cpus=1).take_all(), key=lambda row: str(row["rollouts"]))


def _parts(decisions: pa.Table) -> list[dict[str, Any]]:
    """Return the parts in order, each with where its decisions begin and how many there are."""
    counts = pc.value_counts(decisions["part"]).to_pylist()  # in order of appearance, which is that of the parts
    begins = accumulate((part["counts"] for part in counts), initial=0)
    return [
        {"part": part["values"], "number": number, "first": first, "rows": part["counts"]}
        for number, (part, first) in enumerate(zip(counts, begins, strict=False))
    ]


def _with_decisions(table: pa.Table, decisions: pa.Table) -> pa.Table:
    """Fill in what selection decided; a second copy of a rollout has no decision and is left out."""
    columns = {f"annotation_{name}": decisions[name] for name in ("dropped_by", "selected", "pass_rate")}
    cast = {name: values.cast(ROLLOUT_SCHEMA.field(name).type) for name, values in columns.items()}
    return set_columns(table.take(decisions["row"]), cast).cast(ROLLOUT_SCHEMA)


def _settle(
    run: Run,
    inputs: str,
    decisions: pa.Table,
    written: list[dict[str, Any]],
    faults: Mapping[str, int],
    overlaps: pa.Table | None,
) -> dict[str, Any]:
    """Check that the sums balance, write card and manifest, and remove the files of an earlier curation."""
    selected = pc.sum(decisions["selected"]).as_py() or 0
    dropped = Counter(name for name in decisions["dropped_by"].to_pylist() if name)
    rows = sum(row["rows"] for row in written)
    if not decisions.num_rows == rows == selected + sum(dropped.values()):
        raise RuntimeError(f"{decisions.num_rows} rollouts, {rows} written, {selected} selected, {dropped}: no balance")
    data, aside = ([row[split] for row in written if row[split]] for split in ("train", "validation"))
    manifest = {
        "inputs": inputs,
        "examples": _examples_hash(run, decisions),
        "committed": run.ledger.count(),
        "rollouts": [row["rollouts"] for row in written],
        "data": data,
        "validation": aside,
        "set_aside": sum(row["set_aside"] for row in written),
        "tokens": sum(row["tokens"] for row in written),
        "rows": rows,
        "selected": selected,
        "dropped": dict(dropped.most_common()),
        "unreadable": dict(faults),
    }
    if overlaps is not None:
        (run.curated / "contamination.parquet").write_table(overlaps)
    (run.curated / "manifest.json").write(json.dumps(manifest, indent=2).encode())
    _check_not_empty(manifest)  # after the manifest, which records the reasons; an earlier data set stays in place
    _remove_others(run, manifest)
    for fault, count in faults.items():
        log_line("curate", f"{count:>7,} skipped: {fault if ':' in fault else f'invalid {fault}'}")
    reasons = _reasons(manifest) or "none"
    log_line("curate", f"{selected:>7,} samples selected of {rows:,} rollouts   dropped: {reasons}")
    return manifest


def _examples_hash(run: Run, decisions: pa.Table) -> str:
    """Return a hash of the examples that a student learns from and is validated on, independent of the files."""
    curation = run.config.curation
    parts = split_off(decisions.filter(decisions["selected"]), curation.validation, curation.seed)
    hashes = (content_hash(*sorted(part["content"].to_pylist())) for part in parts)
    weights = (curation.loss_weight, *map(str, user_modules(curation))) if curation.loss_weight else ()
    return content_hash(run.config.student.prompt.model_dump_json(), *hashes, *weights)


def _write_for_others(run: Run, manifest: Mapping[str, Any], overlaps: pa.Table | None) -> None:
    """Write what other trainers read, where it is not there yet, and the card."""
    write_layouts(run, manifest, in_tasks)
    write_trainer_configs(run, manifest)
    for line in write_sets(run, manifest, _ids(overlaps), in_tasks):
        log_line("curate", line)
    _renew_card(run, manifest, overlaps)


def _remove_others(run: Run, manifest: Mapping[str, Any]) -> None:
    """Remove the files of an earlier curation, and layouts that are no longer configured."""
    data = {*manifest["data"], *manifest["validation"]}
    lines = {lines_name(name) for name in data}
    kept = {"rollouts": {*manifest["rollouts"]}, "data": data}
    kept |= {layout: lines if layout in run.config.curation.layouts else set() for layout in LAYOUTS}
    for folder, names in kept.items():
        for file in (run.curated / folder).list():
            if file.name not in names:
                file.delete()


def _check_not_empty(manifest: Mapping[str, Any]) -> None:
    """Refuse a data set without examples to train on.

    Raises:
        UserError: no rollout was selected, or all are set aside for validation.
    """
    if not manifest["selected"]:
        cure = "look at them with `reasonray show`, sample more, or loosen the rules of [curation]"
        raise UserError(f"no rollout survived curation: {_reasons(manifest)}; {cure}")
    if not manifest["data"]:
        aside = f"curation.validation sets all {manifest['selected']:,} examples aside"
        raise UserError(f"{aside}; lower it, or sample more")


def _reasons(manifest: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in manifest["dropped"].items())


def _stored_overlaps(run: Run) -> pa.Table | None:
    searched = "contaminated" in run.config.curation.rules
    return (run.curated / "contamination.parquet").read_table() if searched else None


def _ids(overlaps: pa.Table | None) -> set[str]:
    """Return the ids of the problems that overlap with held-out ones."""
    return set(overlaps["problem_id"].to_pylist()) if overlaps else set()


def _renew_card(run: Run, manifest: Mapping[str, Any], overlaps: pa.Table | None) -> None:
    """Write the card again if its text has changed: it states licenses, and the sets that were made for others."""
    text = _card(run, manifest, overlaps).encode()
    if not (run.curated / "README.md").exists() or text != (run.curated / "README.md").read():
        (run.curated / "README.md").write(text)


def _card(run: Run, manifest: Mapping[str, Any], overlaps: pa.Table | None) -> str:
    rollouts = _read_columns(run.curated / "rollouts", manifest["rollouts"], COLUMNS, ROLLOUT_SCHEMA)
    files = {"train": manifest["data"], "validation": manifest["validation"]}
    exported = _read_columns(run.curated / "data", [*files["train"], *files["validation"]], CARD_COLUMNS, EXPORT_SCHEMA)
    splits = [split for split, names in files.items() if names]
    funnel = count_funnel(rollouts, len(run.problems(Split.TRAIN)))
    made = {name: manifest for name in SETS if (manifest := set_manifest(run, name))}
    sets = {name: [split for split in files if manifest[split]] for name, manifest in made.items()}
    lines = [describe_set(name, manifest) for name, manifest in made.items()]
    found = overlaps, stored_findings(run)
    return card(run.config, funnel, exported, *found, splits=splits, sets=sets, set_lines=lines)


def _read_columns(folder: Place, names: list[str], columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    tables = [(folder / name).read_table(columns) for name in names]
    return pa.concat_tables([pa.schema([schema.field(name) for name in columns]).empty_table(), *tables])
