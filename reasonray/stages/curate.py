"""Rollouts → data set, on Ray Data: annotate, drop with a reason, select, export.

Two passes over the text, none of it on the driver: the first annotates and applies the rules that look at one rollout;
the driver selects from narrow columns alone; the second writes every rollout with its fate, and the data set.

    <run>/curated/rollouts/*.parquet   every rollout, annotated, with `dropped_by`
    <run>/curated/data/*.parquet       the selected ones, for training
    <run>/curated/README.md            the data-set card
    <run>/curated/manifest.json        names all of them; written last
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from reasonray.config import Curation, Prompt, UserError
from reasonray.console import Progress, say
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.export import CARD_COLUMNS, EXPORT_SCHEMA, card, examples
from reasonray.curation.rules import check_names, first_drop
from reasonray.curation.selection import select
from reasonray.funnel import count_funnel
from reasonray.records import Split, content_hash
from reasonray.run import Run
from reasonray.stages.cluster import quiet_ray_data
from reasonray.stages.verify import newer_verdicts, with_verdicts
from reasonray.storage import Place
from reasonray.summary import COLUMNS
from reasonray.tables import ROLLOUT_SCHEMA

_BATCH = 4096
_BLOCK_BYTES = 16 << 20
"""Of compressed segments."""
_NARROW = ["id", "problem_id", "completion_tokens", "verdict_outcome"]


def curate(run: Run) -> None:
    """Make the data set of the rollouts that are there, or find it made of the same ones.

    Raises:
        UserError: there are no rollouts, a rule is unknown, or no rollout survives.
    """
    segments = run.rollouts.segments()
    if not segments:
        raise UserError(f"run {run.name} holds no rollouts yet; run jobs/sample.py first")
    curation, prompt = run.config.curation, run.config.student.prompt
    check_names(curation)
    verdicts = newer_verdicts(run)
    inputs = content_hash(
        curation.model_dump_json(),
        prompt.model_dump_json(),
        *(it.name for it in segments),
        *(content_hash(*map(str, row)) for row in zip(*verdicts.to_pydict().values(), strict=True)),
    )
    manifest = run.curated / "manifest.json"
    if manifest.exists() and json.loads(manifest.read())["inputs"] == inputs:
        say("curate", "done before")
        return
    with Progress("curate", run.events) as progress:
        progress.show("annotating", {"state": "annotating"}, now=True)
        quiet_ray_data()
        scratch = run.curated / "annotated"
        scratch.delete()
        narrow = _annotate(segments, verdicts, curation, scratch)
        progress.show(f"selecting from {narrow.num_rows:,} rollouts", {"state": "selecting"}, now=True)
        fates = _decide(narrow, curation)
        written = _write(run, inputs, fates, scratch, prompt)
        scratch.delete()
        _settle(run, inputs, fates, written)
        progress.record({"state": "done"})


def _annotate(segments: list[Place], verdicts: pa.Table, curation: Curation, scratch: Place) -> pa.Table:
    """Write annotated rollouts in parts; return the narrow columns of all, with the part that each row is in."""
    newer = ray.put(verdicts)

    def annotate(batch: pa.Table) -> pa.Table:
        rollouts = with_verdicts(batch.select(ROLLOUT_SCHEMA.names).cast(ROLLOUT_SCHEMA), ray.get(newer))
        table = annotate_table(rollouts)
        dropped = first_drop(table, curation)
        part = f"{content_hash(*table['id'].to_pylist())}.parquet"
        _put(scratch / part, table)
        hashes = [content_hash(" ".join(text.split())) for text in table["completion"].to_pylist()]
        return (
            table.select(_NARROW)
            .append_column("text_hash", pa.array(hashes))
            .append_column("dropped_by", dropped)
            .append_column("part", pa.array([part] * table.num_rows))
        )

    sizes = segments[0].filesystem.get_file_info([segment.path for segment in segments])
    dataset = ray.data.read_parquet(
        [segment.path for segment in segments],
        filesystem=segments[0].filesystem,
        # A worker process costs seconds to start: few blocks for little data, more as there is more.
        override_num_blocks=1 + sum(info.size for info in sizes) // _BLOCK_BYTES,
    )
    narrow = dataset.map_batches(annotate, batch_size=_BATCH, batch_format="pyarrow", num_cpus=1)
    tables = [table for table in ray.get(narrow.to_arrow_refs()) if table.num_rows]
    return pa.concat_tables(tables, promote_options="default")


def _decide(narrow: pa.Table, curation: Curation) -> pa.Table:
    """Return one row per rollout: id, part, dropped_by, selected, pass_rate."""
    # A rollout that was committed twice counts once; which of the two does not depend on the order of blocks.
    ordered = narrow.sort_by([("id", "ascending"), ("text_hash", "ascending"), ("part", "ascending")])
    first = pa.array([True]) if ordered.num_rows else pa.array([], pa.bool_())
    if ordered.num_rows > 1:
        ids = ordered["id"].combine_chunks()
        first = pa.concat_arrays([first, pc.not_equal(ids[1:], ids[:-1])])
    distinct = ordered.filter(first)
    decisions = select(distinct, curation.keep_per_problem, drop_duplicates="duplicate" in curation.rules)
    return distinct.select(["id", "part", "completion_tokens"]).join(decisions, "id").combine_chunks()


def _write(run: Run, inputs: str, fates: pa.Table, scratch: Place, prompt: Prompt) -> list[dict[str, Any]]:
    """Write every part again with its fates, and its selected rollouts as examples."""
    shared = ray.put(fates)
    curated = run.curated

    def write(row: dict[str, Any]) -> dict[str, Any]:
        mine = ray.get(shared).filter(pc.equal(ray.get(shared)["part"], row["part"]))
        source = scratch / row["part"]
        table = _with_fates(pq.read_table(source.path, filesystem=source.filesystem), mine)
        name = f"{inputs[:8]}-{row['number']:05d}.parquet"
        _put(curated / "rollouts" / name, table)
        selected = examples(table.filter(table["annotation_selected"]), prompt)
        if selected.num_rows:
            _put(curated / "data" / f"train-{name}", selected)
        return {"rollouts": name, "rows": table.num_rows, "data": f"train-{name}" if selected.num_rows else ""}

    parts = sorted(set(fates["part"].to_pylist()))
    rows = [{"part": part, "number": number} for number, part in enumerate(parts)]
    dataset = ray.data.from_items(rows, override_num_blocks=1 + len(rows) // 8)
    return sorted(dataset.map(write, num_cpus=1).take_all(), key=lambda row: str(row["rollouts"]))


def _with_fates(table: pa.Table, fates: pa.Table) -> pa.Table:
    """Fill in what selection decided; a second copy of a rollout, which has no fate here, goes."""
    place_of = pc.index_in(fates["id"], value_set=table["id"].combine_chunks())
    table = table.take(place_of)
    for column in ("dropped_by", "selected", "pass_rate"):
        name = f"annotation_{column}"
        field = ROLLOUT_SCHEMA.field(name)
        table = table.set_column(table.schema.get_field_index(name), field, fates[column].cast(field.type))
    return table.cast(ROLLOUT_SCHEMA)


def _settle(run: Run, inputs: str, fates: pa.Table, written: list[dict[str, Any]]) -> None:
    """Check that the sums balance, write card and manifest, and remove what an earlier curation left."""
    selected = pc.sum(fates["selected"]).as_py() or 0
    dropped = Counter(name for name in fates["dropped_by"].to_pylist() if name)
    rows = sum(row["rows"] for row in written)
    if not fates.num_rows == rows == selected + sum(dropped.values()):
        raise RuntimeError(f"{fates.num_rows} rollouts, {rows} written, {selected} selected, {dropped}: no balance")
    data = [row["data"] for row in written if row["data"]]
    document = {
        "inputs": inputs,
        "rollouts": [row["rollouts"] for row in written],
        "data": data,
        "rows": rows,
        "selected": selected,
        "dropped": dict(dropped.most_common()),
    }
    (run.curated / "README.md").write(_card(run, document["rollouts"], data).encode())
    (run.curated / "manifest.json").write(json.dumps(document, indent=2).encode())
    for folder, named in (("rollouts", document["rollouts"]), ("data", data)):
        for file in (run.curated / folder).list():
            if file.name not in named:
                file.delete()
    reasons = ", ".join(f"{count:,} {name}" for name, count in dropped.most_common())
    if not selected:
        raise UserError(f"no rollout survived curation: {reasons}; draw more, or loosen the rules of [curation]")
    say("curate", f"{selected:>7,} samples selected of {rows:,} rollouts   dropped: {reasons or 'none'}")


def _card(run: Run, rollouts: list[str], data: list[str]) -> str:
    narrow = _read_columns(run.curated / "rollouts", rollouts, COLUMNS, ROLLOUT_SCHEMA)
    exported = _read_columns(run.curated / "data", data, CARD_COLUMNS, EXPORT_SCHEMA)
    return card(run.config, count_funnel(narrow, len(run.problems(Split.TRAIN))), exported)


def _read_columns(folder: Place, names: list[str], columns: Sequence[str], schema: pa.Schema) -> pa.Table:
    files = [folder / name for name in names]
    tables = [pq.read_table(it.path, columns=list(columns), filesystem=it.filesystem) for it in files]
    return pa.concat_tables([pa.schema([schema.field(name) for name in columns]).empty_table(), *tables])


def _put(target: Place, table: pa.Table) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    target.write(sink.getvalue())
