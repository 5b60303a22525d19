"""The curated data set, as training reads it."""

from __future__ import annotations

from dataclasses import dataclass

from reasonray.config import Training, UserError
from reasonray.records import content_hash
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.storage import Place


@dataclass(frozen=True)
class DataSet:
    """The curated data set."""

    hash: str
    files: list[Place]
    validation_files: list[Place]
    rows: int
    """Rows in `files`."""


def data_set(run: Run) -> DataSet:
    """Return the curated data set of a run.

    Raises:
        UserError: nothing was curated yet, or nothing was selected.
    """
    manifest = run.curated / "manifest.json"
    if not manifest.exists():
        raise UserError(f"run {run.name} has no data set yet; run jobs/curate.py first")
    document = manifest.read_json()
    names = document["data"]
    if not names:
        raise UserError(f"run {run.name}: curation selected no rollout to train on; sample more, or loosen [curation]")
    return DataSet(
        hash=document.get("examples") or content_hash(*names),  # older manifests lack the hash of the examples
        files=[run.curated / "data" / name for name in names],
        validation_files=validation_files(run),
        rows=document["selected"],
    )


def validation_files(run: Run) -> list[Place]:
    """Return the files of held-out examples."""
    names = (run.curated / "manifest.json").read_json().get("validation", [])
    return [run.curated / "data" / name for name in names]


def report_overlong(training: Training, lengths: list[int]) -> None:
    """Print how many examples are longer than training has room for."""
    overlong = sum(length > training.max_tokens for length in lengths)
    if overlong:
        log_line(
            "train",
            f"{overlong:,} of {len(lengths):,} examples are left out: longer than training.max_tokens = "
            f"{training.max_tokens} (the longest has {max(lengths):,} tokens)",
        )
