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
    if run.config.training.objective != "sft":
        return _policy_set(run)
    names = document["data"]
    if not names:
        raise UserError(f"run {run.name}: curation selected no rollout to train on; sample more, or loosen [curation]")
    return DataSet(
        hash=document.get("examples") or content_hash(*names),  # older manifests lack the hash of the examples
        files=[run.curated / "data" / name for name in names],
        validation_files=validation_files(run),
        rows=document["selected"],
    )


def _policy_set(run: Run) -> DataSet:
    """Return the samples for policy gradients, as curation/derived.py writes them."""
    folder = run.curated / run.config.training.objective
    document = (folder / "manifest.json").read_json_or_none()
    if not document:
        raise UserError(f"run {run.name} has no samples for policy gradients yet; run jobs/curate.py first")
    if not document["train"]:
        fate = ", ".join(f"{count:,} {reason}" for reason, count in document["problems"].items())
        raise UserError(
            f"run {run.name}: no problem has a correct and a wrong sample with log-probabilities ({fate}); sample "
            "more, with sampling.logprobs = true"
        )
    return DataSet(
        hash=document["content"],
        files=[folder / name for name in document["train"]],
        validation_files=validation_files(run),
        rows=document["rows"],
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
