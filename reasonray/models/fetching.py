"""Models from the hub and from stores, fetched once a node, however many replicas ask for them at the same time."""

from __future__ import annotations

import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from reasonray.errors import UserError
from reasonray.models import adapters
from reasonray.models.contents import MODEL_FILES
from reasonray.models.documents import read_document
from reasonray.store.storage import Place, place, storage_error

Report = Callable[[str], None]
"""Gets what is being done, such as "fetching 1.2 of 14.9 GB", every second."""


def report_nothing(phase: str) -> None:
    """Ignore the progress."""


def is_uri(reference: str) -> bool:
    """Return whether a reference is the URI of a directory in a store."""
    return re.match(r"[a-z0-9]+://", reference) is not None


def cache_directory() -> Path:
    """Return the directory of converted and downloaded models: $REASONRAY_CACHE, else one in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "reasonray"
    return Path(os.environ.get("REASONRAY_CACHE", default)).expanduser()


def download(uri: str, report: Report) -> Path:
    """Return a directory with the files of a model in a store, copied if this node does not have them.

    Raises:
        UserError: there is no model, or the store does not answer.
    """
    remote_configuration(uri)
    source = place(uri)
    files = [file for file in source.list() if file.name.endswith(MODEL_FILES)]
    try:
        infos = source.filesystem.get_file_info([file.path for file in files])
    except OSError as error:
        raise storage_error(source, error) from None
    stamp = "".join(f"{info.base_name}:{info.size}:{info.mtime_ns};" for info in infos)
    target = cache_directory() / "fetched" / blake2b(f"{uri}:{stamp}".encode(), digest_size=10).hexdigest()

    def fill(scratch: Path) -> None:
        with _reported_growth(scratch, sum(info.size for info in infos), report):
            for file in files:
                file.copy(place(scratch / file.name))

    return make_once(target, fill, report)


def remote_configuration(uri: str) -> Place:
    """Return the file that describes a model, or an adapter, in a store.

    Raises:
        UserError: there is none, or the store does not answer.
    """
    for name in ("config.json", adapters.CONFIGURATION):
        file = place(uri) / name
        try:
            if file.exists():
                return file
        except OSError as error:
            raise storage_error(file, error) from None
    raise UserError(f"model {uri}: no config.json there, so it is not a model")


@contextmanager
def _lock(target: Path, report: Report) -> Iterator[None]:
    """Hold the lock of a directory that one process of the node makes, and the others wait for."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{target}.lock")
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            report("waiting for another replica of this node, which fetches the same model")
    try:
        yield
    finally:
        lock.release()


def make_once(target: Path, fill: Callable[[Path], None], report: Report) -> Path:
    """Return the target directory, filled by the first process that needs it; others wait for the first."""
    with _lock(target, report):
        if not target.exists():
            scratch = target.with_suffix(".making")
            shutil.rmtree(scratch, ignore_errors=True)  # from a process that died: nobody else holds the lock
            scratch.mkdir()
            fill(scratch)
            scratch.rename(target)
    return target


@contextmanager
def _reported_growth(directory: Path, total: int, report: Report) -> Iterator[None]:
    """Report every second how much of the bytes to fetch a directory holds; nothing if there are none."""
    before, done = _size(directory), threading.Event()

    def watch() -> None:
        while not done.wait(1.0):
            fetched = min(_size(directory) - before, total)
            report(f"fetching {fetched / 1e9:.1f} of {total / 1e9:.1f} GB")

    watcher = threading.Thread(target=watch, daemon=True)
    if total:
        watcher.start()
    try:
        yield
    finally:
        done.set()
        if total:
            watcher.join()


def _size(directory: Path) -> int:
    """Return the bytes of all files below a directory, as far as they are there at the moment."""
    size = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                size += (Path(root) / name).lstat().st_size
            except FileNotFoundError:  # renamed or deleted meanwhile
                continue
    return size


def from_hub(reference: str, revision: str | None, report: Report) -> Path:
    """Return a directory with the files of a model on the hub, downloaded as far as this node does not have them.

    Raises:
        UserError, OSError: see `hub_errors`.
    """
    from huggingface_hub import constants, snapshot_download

    patterns = [f"*{suffix}" for suffix in MODEL_FILES if suffix not in (".bin", ".pt", ".gguf")]
    fetch = partial(snapshot_download, reference, revision=revision, allow_patterns=patterns)
    with _lock(cache_directory() / "hub" / re.sub(r"\W", "-", reference), report), hub_errors(reference):
        blobs = Path(constants.HF_HUB_CACHE) / f"models--{reference.replace('/', '--')}" / "blobs"
        with _reported_growth(blobs, _missing_bytes(fetch), report):
            return Path(fetch())


def hub_configuration(reference: str, revision: str | None) -> dict[str, Any]:
    """Return the configuration of a model, or of an adapter, on the hub.

    Raises:
        UserError, OSError: see `hub_errors`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    with hub_errors(reference):
        try:
            file = hf_hub_download(reference, "config.json", revision=revision)
        except EntryNotFoundError:
            file = hf_hub_download(reference, adapters.CONFIGURATION, revision=revision)
    return read_document(Path(file))


def _missing_bytes(fetch: Callable[..., Any]) -> int:
    """Return how much a download will fetch; 0 if the hub does not say."""
    from huggingface_hub.errors import DryRunError, HfHubHTTPError

    try:
        return sum(file.file_size or 0 for file in fetch(dry_run=True) if file.will_download)
    except (DryRunError, HfHubHTTPError, OSError):  # the download itself reports what is wrong
        return 0


@contextmanager
def hub_errors(reference: str) -> Iterator[None]:
    """Raise a UserError for a model that the hub does not give, and an OSError while the hub is out of reach."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        message = (
            f"model {reference}: neither a local directory nor available from the hub ({type(error).__name__}"
            f"{f', status {status}' if status else ''}); check the name, the network and your access"
        )
        is_passing = (status is None and not constants.HF_HUB_OFFLINE) or (status or 0) >= 500 or status == 429
        raise (OSError if is_passing else UserError)(message) from None
