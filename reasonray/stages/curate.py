"""Rollouts → data set, on Ray Data: annotate, drop with a reason, select, export.

Two passes over the text, none of it on the driver: the first annotates and applies the rules that look at one rollout;
the driver selects from narrow columns alone; the second writes every rollout with its fate, and the data set.

    <run>/curated/rollouts/*.parquet   every rollout, annotated, with `dropped_by`
    <run>/curated/data/*.parquet       the selected ones: train-*, and validation-* if some are set aside
    <run>/curated/{sharegpt,alpaca}/   the same as JSON Lines, if asked for
    <run>/curated/contamination.parquet  which problems overlap with held-out ones, and the words that say so
    <run>/curated/README.md            the data-set card
    <run>/curated/manifest.json        names all of them; written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import import_module
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data

from reasonray.analysis.funnel import count_funnel
from reasonray.analysis.metrics_json import COLUMNS
from reasonray.config import Curation, Prompt, UserError
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.card import CARD_COLUMNS, card
from reasonray.curation.decontamination import CONTAMINATION_SCHEMA, Item, held_out_items, hits, index
from reasonray.curation.export import EXPORT_SCHEMA, LAYOUTS, examples, json_lines, split_off
from reasonray.curation.features import narrow_columns, with_near_duplicates
from reasonray.curation.measures import measure_table
from reasonray.curation.rules import check_names, of_the_user
from reasonray.curation.selection import select
from reasonray.curation.text import normalised
from reasonray.curation.validation import read_batches
from reasonray.records import Split, content_hash
from reasonray.sampling.cluster import quiet_ray_data
from reasonray.store.progress import Progress, log_line
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, SCHEMA_VERSION, row_hashes, set_columns
from reasonray.store.storage import Place
from reasonray.store.verdicts import newer_verdicts, with_verdicts

_BATCH = 4096
_CHUNK = 5000
"""Problems that one task of decontamination compares."""
_FEW = 64
_PLACES = [("part", "ascending"), ("row", "ascending")]
_TAKES_NO_PART = {"layouts", "labeller", "labelled"}
"""Keys of [curation] that decide of no rollout."""
_BLOCK_BYTES = 16 << 20
"""Of compressed segments."""


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
    curation, prompt = run.config.curation, run.config.student.prompt
    check_names(curation)
    verdicts = newer_verdicts(run)
    held_out = held_out_items(run) if "contaminated" in curation.rules else []
    train = [it.id for it in run.problems(Split.TRAIN)]
    inputs = _inputs(run, segments, verdicts, held_out, train)
    manifest = run.curated / "manifest.json"
    if (before := manifest.read_json_or_none()) and before["inputs"] == inputs:
        _refuse_nothing(before)
        _write_layouts(run, before)
        _renew_card(run, before)
        _remove_others(run, before)
        log_line("curate", "done before")
        return _curated(run, before)
    with Progress("curate", run.events) as progress:
        progress.show("annotating", {"state": "annotating"}, now=True)
        quiet_ray_data()
        if users_code(curation):
            _try_out(segments[0], frozenset(train), curation)
        scratch = run.curated / "annotated"
        scratch.delete()
        narrow = _annotate(segments, verdicts, frozenset(train), curation, scratch)
        progress.show(f"selecting from {narrow.num_rows:,} rollouts", {"state": "selecting"}, now=True)
        overlaps = _contamination(run, held_out) if "contaminated" in curation.rules else None
        dirty = set(overlaps["problem_id"].to_pylist()) if overlaps else ()
        fates, faults = _decide(narrow, curation, dirty), _faults(scratch)
        written = _write(run, inputs, fates, scratch, prompt)
        scratch.delete()
        document = _settle(run, inputs, fates, written, faults, overlaps)
        progress.record({"state": "done"})
    return _curated(run, document)


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
    """Return a hash of all that decides what becomes of the rollouts; of the user's files what is in them."""
    curation = run.config.curation
    found = verdicts.drop("verdict_seconds")  # which differ even where the same is found again
    return content_hash(
        SCHEMA_VERSION,
        curation.model_dump_json(exclude=_TAKES_NO_PART),
        run.config.student.prompt.model_dump_json(),
        *(it.name for it in segments),
        *(content_hash(*map(str, row)) for row in zip(*found.to_pydict().values(), strict=True)),
        *(content_hash(*it) for it in users_code(curation)),
        *(content_hash(it.benchmark, it.id, it.text) for it in held_out),
        *train,
    )


def users_code(curation: Curation) -> list[tuple[str, str]]:
    """Return the modules that the user's own functions are named by and defined in, each with a hash of its file."""
    named = [name for name in (*curation.rules, curation.score or "") if ":" in name]
    modules = {name.partition(":")[0] for name in named} | {of_the_user("rules", name).__module__ for name in named}
    files = ((module, getattr(import_module(module), "__file__", None)) for module in sorted(modules))
    return [(module, sha256(Path(file).read_bytes()).hexdigest()) for module, file in files if file]


def _try_out(segment: Place, train: Collection[str], curation: Curation) -> None:
    """Apply the user's own functions to a few rollouts here: what is wrong with them is told at once, and plainly."""
    for few in islice(read_batches(segment, _FEW, train, Counter()), 1):
        narrow_columns(measure_table(annotate_table(few), curation.repetition_ngram), curation)


def _annotate(
    segments: list[Place], verdicts: pa.Table, train: frozenset[str], curation: Curation, scratch: Place
) -> pa.Table:
    """Write annotated rollouts in parts; return the narrow columns of all, with the place of each: part and row."""
    newer, known, filesystem = ray.put(verdicts), ray.put(train), segments[0].filesystem

    def annotate(batch: pa.Table) -> Iterator[pa.Table]:
        faults: Counter[str] = Counter()
        for segment in (Place(filesystem, path) for path in batch["segment"].to_pylist()):
            for number, rollouts in enumerate(read_batches(segment, _BATCH, ray.get(known), faults)):
                annotated = annotate_table(with_verdicts(rollouts, ray.get(newer)))
                table = measure_table(annotated, curation.repetition_ngram)
                part = f"{segment.name.removesuffix('.parquet')}-{number:05d}.parquet"
                (scratch / part).write_table(table)
                narrow = narrow_columns(table, curation).append_column("content", row_hashes(rollouts))
                narrow = narrow.append_column("part", pa.array([part] * table.num_rows))
                yield narrow.append_column("row", pa.array(range(table.num_rows)))
        if faults:
            name = f"{content_hash(*batch['segment'].to_pylist())}.json"
            (scratch / "faults" / name).write(json.dumps(faults).encode())

    sizes = filesystem.get_file_info([segment.path for segment in segments])
    dataset = ray.data.from_items(
        [{"segment": segment.path} for segment in segments],
        # A worker process costs seconds to start: few blocks for little data, more as there is more.
        override_num_blocks=min(len(segments), 1 + sum(info.size for info in sizes) // _BLOCK_BYTES),
    )
    narrow = dataset.map_batches(annotate, batch_size=None, batch_format="pyarrow", num_cpus=1)
    tables = [table for table in ray.get(narrow.to_arrow_refs()) if table.num_rows]
    if not tables:
        raise UserError(f"no rollout of {len(segments)} segments can be read: {_faults(scratch)}")
    return pa.concat_tables(tables, promote_options="default")


def _contamination(run: Run, items: Sequence[Item]) -> pa.Table:
    """Return the overlaps of a run's train problems with held-out items (overlap.CONTAMINATION_SCHEMA)."""
    asked = [(it.id, it.question) for it in run.problems(Split.TRAIN)]
    lengths = {len(normalised(text)) for _, text in asked}
    held_out = ray.put(index(items, run.config.curation.ngrams, lengths))
    chunks = [asked[start : start + _CHUNK] for start in range(0, len(asked), _CHUNK)]
    look = ray.remote(hits).options(num_cpus=1)
    tables = ray.get([look.remote(held_out, chunk) for chunk in chunks])
    return pa.concat_tables([CONTAMINATION_SCHEMA.empty_table(), *tables])


def _faults(scratch: Place) -> dict[str, int]:
    """Return how many rows were kept out, by what is wrong with them."""
    total: Counter[str] = Counter()
    for file in (scratch / "faults").list(".json"):
        total.update(file.read_json())
    return dict(total.most_common())


def _decide(narrow: pa.Table, curation: Curation, contaminated: Collection[str]) -> pa.Table:
    """Return one row per rollout, in order of its place: part, row, problem_id, content, and what select decides."""
    # Of a rollout that was drawn again the newest round counts. Of one that was committed twice what it says decides,
    # not which copy was read first.
    copies = [("id", "ascending"), ("resample", "descending"), ("content", "ascending"), *_PLACES]
    ordered = narrow.sort_by(copies)
    first = pa.array([True]) if ordered.num_rows else pa.array([], pa.bool_())
    if ordered.num_rows > 1:
        ids = ordered["id"].combine_chunks()
        first = pa.concat_arrays([first, pc.not_equal(ids[1:], ids[:-1])])
    distinct = ordered.filter(first)
    if "near_duplicate" in curation.rules:
        distinct = with_near_duplicates(distinct, curation.near)
    decisions = select(distinct, curation, contaminated=contaminated)
    fates = {name: distinct[name] for name in ("part", "row", "problem_id", "content")} | {
        name: decisions[name] for name in ("dropped_by", "selected", "pass_rate")
    }
    return pa.table(fates).sort_by(_PLACES).combine_chunks()


def _write(run: Run, inputs: str, fates: pa.Table, scratch: Place, prompt: Prompt) -> list[dict[str, Any]]:
    """Write every part again with its fates, and its selected rollouts as examples."""
    shared = ray.put(fates.drop(["part", "problem_id", "content"]))
    curated, curation = run.curated, run.config.curation

    def write(row: dict[str, Any]) -> dict[str, Any]:
        mine = ray.get(shared).slice(row["first"], row["rows"])
        table = _with_fates((scratch / row["part"]).read_table(), mine)
        name = f"{inputs[:8]}-{row['number']:05d}.parquet"
        (curated / "rollouts" / name).write_table(table)
        selected = examples(table.filter(table["annotation_selected"]), prompt)
        train, validation = split_off(selected, curation.validation, curation.seed)
        for split, part in (("train", train), ("validation", validation)):
            if part.num_rows:
                (curated / "data" / f"{split}-{name}").write_table(part)
        return {
            "rollouts": name,
            "rows": table.num_rows,
            "train": f"train-{name}" if train.num_rows else "",
            "validation": f"validation-{name}" if validation.num_rows else "",
            "set_aside": validation.num_rows,
        }

    parts = _parts(fates)
    dataset = ray.data.from_items(parts, override_num_blocks=1 + len(parts) // 8)
    return sorted(dataset.map(write, num_cpus=1).take_all(), key=lambda row: str(row["rollouts"]))


def _parts(fates: pa.Table) -> list[dict[str, Any]]:
    """Return the parts in order, each with where its fates begin and how many they are."""
    counts = pc.value_counts(fates["part"]).to_pylist()  # in order of appearance, which is that of the parts
    begins = accumulate((it["counts"] for it in counts), initial=0)
    return [
        {"part": it["values"], "number": number, "first": first, "rows": it["counts"]}
        for number, (it, first) in enumerate(zip(counts, begins, strict=False))
    ]


def _with_fates(table: pa.Table, fates: pa.Table) -> pa.Table:
    """Fill in what selection decided; a second copy of a rollout, which has no fate here, goes."""
    decided = {f"annotation_{name}": fates[name] for name in ("dropped_by", "selected", "pass_rate")}
    found = {name: values.cast(ROLLOUT_SCHEMA.field(name).type) for name, values in decided.items()}
    return set_columns(table.take(fates["row"]), found).cast(ROLLOUT_SCHEMA)


def _settle(
    run: Run,
    inputs: str,
    fates: pa.Table,
    written: list[dict[str, Any]],
    faults: Mapping[str, int],
    overlaps: pa.Table | None,
) -> dict[str, Any]:
    """Check that the sums balance, write card and manifest, and remove what an earlier curation left."""
    selected = pc.sum(fates["selected"]).as_py() or 0
    dropped = Counter(name for name in fates["dropped_by"].to_pylist() if name)
    rows = sum(row["rows"] for row in written)
    if not fates.num_rows == rows == selected + sum(dropped.values()):
        raise RuntimeError(f"{fates.num_rows} rollouts, {rows} written, {selected} selected, {dropped}: no balance")
    data, aside = ([row[split] for row in written if row[split]] for split in ("train", "validation"))
    document = {
        "inputs": inputs,
        "examples": _examples_hash(run, fates),
        "committed": run.ledger.count(),
        "rollouts": [row["rollouts"] for row in written],
        "data": data,
        "validation": aside,
        "set_aside": sum(row["set_aside"] for row in written),
        "rows": rows,
        "selected": selected,
        "dropped": dict(dropped.most_common()),
        "unreadable": dict(faults),
    }
    if overlaps is not None:
        (run.curated / "contamination.parquet").write_table(overlaps)
    _write_layouts(run, document)
    if data:
        (run.curated / "README.md").write(_card(run, document, overlaps).encode())
    (run.curated / "manifest.json").write(json.dumps(document, indent=2).encode())
    _refuse_nothing(document)  # the manifest says why there is nothing; an earlier data set stays where it is
    _remove_others(run, document)
    for fault, count in faults.items():
        log_line("curate", f"{count:>7,} kept out, for {fault} cannot be used")
    log_line(
        "curate", f"{selected:>7,} samples selected of {rows:,} rollouts   dropped: {_reasons(document) or 'none'}"
    )
    return document


def _examples_hash(run: Run, fates: pa.Table) -> str:
    """Return a hash of what a student learns from and is measured on, whatever files it lies in."""
    curation = run.config.curation
    parts = split_off(fates.filter(fates["selected"]), curation.validation, curation.seed)
    hashes = (content_hash(*sorted(part["content"].to_pylist())) for part in parts)
    return content_hash(run.config.student.prompt.model_dump_json(), *hashes)


def _write_layouts(run: Run, document: Mapping[str, Any]) -> None:
    """Write the examples in the other layouts that are asked for, where they do not stand there yet."""
    write, written = ray.remote(_write_lines).options(num_cpus=1), []
    for layout in run.config.curation.layouts:
        there = {file.name for file in (run.curated / layout).list()}
        missing = (name for name in [*document["data"], *document["validation"]] if _lines_of(name) not in there)
        written += [write.remote(run.curated, name, layout) for name in missing]
    ray.get(written)


def _lines_of(name: str) -> str:
    return f"{name.removesuffix('.parquet')}.jsonl"


def _write_lines(curated: Place, name: str, layout: str) -> None:
    (curated / layout / _lines_of(name)).write(json_lines((curated / "data" / name).read_table(), layout))


def _remove_others(run: Run, document: Mapping[str, Any]) -> None:
    """Remove what an earlier curation left, and layouts that are no longer asked for."""
    data = {*document["data"], *document["validation"]}
    lines = {_lines_of(name) for name in data}
    kept = {"rollouts": {*document["rollouts"]}, "data": data}
    kept |= {layout: lines if layout in run.config.curation.layouts else set() for layout in LAYOUTS}
    for folder, named in kept.items():
        for file in (run.curated / folder).list():
            if file.name not in named:
                file.delete()


def _refuse_nothing(document: Mapping[str, Any]) -> None:
    if not document["selected"]:
        cure = "look at them with `reasonray show`, draw more, or loosen the rules of [curation]"
        raise UserError(f"no rollout survived curation: {_reasons(document)}; {cure}")
    if not document["data"]:
        raise UserError(f"curation.validation sets all {document['selected']:,} examples aside; lower it, or draw more")


def _reasons(document: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in document["dropped"].items())


def _renew_card(run: Run, document: Mapping[str, Any]) -> None:
    """Write the card again: what it tells of licenses may have changed, which is no reason to curate again."""
    known = "contaminated" in run.config.curation.rules
    overlaps = (run.curated / "contamination.parquet").read_table() if known else None
    text = _card(run, document, overlaps).encode()
    if text != (run.curated / "README.md").read():
        (run.curated / "README.md").write(text)


def _card(run: Run, document: Mapping[str, Any], overlaps: pa.Table | None) -> str:
    narrow = _read_columns(run.curated / "rollouts", document["rollouts"], COLUMNS, ROLLOUT_SCHEMA)
    files = {"train": document["data"], "validation": document["validation"]}
    exported = _read_columns(
        run.curated / "data", [name for names in files.values() for name in names], CARD_COLUMNS, EXPORT_SCHEMA
    )
    splits = [split for split, names in files.items() if names]
    return card(run.config, count_funnel(narrow, len(run.problems(Split.TRAIN))), exported, overlaps, splits=splits)


def _read_columns(folder: Place, names: list[str], columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    tables = [(folder / name).read_table(columns) for name in names]
    return pa.concat_tables([pa.schema([schema.field(name) for name in columns]).empty_table(), *tables])
