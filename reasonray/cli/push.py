"""Upload of a run's data set with its card, or of its student, to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from reasonray.curation.derived import SETS, set_manifest
from reasonray.curation.export import LAYOUTS
from reasonray.errors import UserError
from reasonray.store.run import Run
from reasonray.store.storage import Place, place

__all__ = ["push"]


def push(run: Run, repository: str, *, student: bool = False, public: bool = False) -> str:
    """Upload a run's data set, or its student, as one commit, and return the repository's address.

    Only files that the manifest names are uploaded: no dropped rollouts, no checkpoints. The token is that of
    `hf auth login`, or $HF_TOKEN.

    Args:
        run: a curated run, or a trained one.
        repository: `owner/name`; created if it does not exist.
        student: upload the student instead of the data set.
        public: create the repository for everybody to read; else it is private.

    Raises:
        UserError: there is nothing to upload yet, or the hub refuses.
    """
    source, files = _student(run) if student else _data_set(run)
    kind = "model" if student else "dataset"
    try:
        with ExitStack() as stack:
            folder = Path(source.path)
            if not source.is_local:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="reasonray-")))
                for name in files:
                    (source / name).copy(place(folder / name))
            hub = HfApi(library_name="reasonray")
            created = hub.create_repo(repository, repo_type=kind, private=not public, exist_ok=True)
            hub.upload_folder(
                repo_id=created.repo_id,
                repo_type=kind,
                folder_path=folder,
                allow_patterns=files,
                commit_message=f"Upload {'the student' if student else 'the data set'} of run {run.name}",
            )
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled, HFValidationError) as error:
        raise UserError(f"{repository} cannot be pushed to: {_reason(error)}") from None
    return str(created)


def _data_set(run: Run) -> tuple[Place, list[str]]:
    """Return the folder of the data set, and the files in it to upload."""
    if not run.has_examples:
        raise UserError(f"run {run.name} has no data set yet; run jobs/curate.py first")
    document = (run.curated / "manifest.json").read_json()
    names = [*document["data"], *document["validation"]]
    lines = [f"{name.removesuffix('.parquet')}.jsonl" for name in names]
    layouts = [
        f"{layout}/{file.name}" for layout in LAYOUTS for file in (run.curated / layout).list() if file.name in lines
    ]
    sets = [
        f"{name}/{file}"
        for name in SETS
        for split in ("train", "validation")
        for file in set_manifest(run, name).get(split, ())
    ]
    return run.curated, ["README.md", *(f"data/{name}" for name in names), *layouts, *sets]


def _student(run: Run) -> tuple[Place, list[str]]:
    """Return the folder of the student, and the files in it to upload."""
    final = run.final_student
    if not (final / "manifest.json").exists():
        raise UserError(f"run {run.name} has no student yet; run jobs/train.py first")
    return final, [file.name for file in final.list() if file.name != "manifest.json"]


def _reason(error: Exception) -> str:
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
    if status in (401, 403) or isinstance(error, LocalTokenNotFoundError):
        return "the hub requires a token that may write there; log in with `hf auth login`, or set $HF_TOKEN"
    if isinstance(error, OfflineModeIsEnabled):
        return "$HF_HUB_OFFLINE is set; unset it"
    reason = " ".join(str(error).split())
    return f"{reason[:160]}; check the name (owner/name), the network and $HF_ENDPOINT"
