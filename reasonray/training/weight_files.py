"""A model's weights in Hugging Face layout, read and written by all workers together, none of which holds them all.

Files name and arrange some weights otherwise than the model: transformers renames them, and fuses, for instance, the
experts of a layer that are stored one by one. Weights that are only renamed are read by torch.distributed.checkpoint,
each worker its shard. The others are converted a group at a time, such as a layer's experts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    PrefixChange,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from reasonray.models.documents import read_document
from reasonray.training.mesh import Mesh

_FILE_BYTES = 4 * 2**30
"""Bytes of a file, at most, unless a single weight has more."""
_PART_BYTES = 64 * 2**20
"""Bytes below which a file is not divided, so that every worker has one to write."""
_INDEX = "model.safetensors.index.json"
_ONLY_FILE = "model.safetensors"


@dataclass(frozen=True)
class _Conversion:
    """Weights of the files that become other weights of the model."""

    first: str
    """Name of the first weight that they become."""
    converter: Any
    sources: tuple[tuple[str, str], ...]
    """Pattern and name of each weight in the files."""

    def __call__(self, model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the model's weights by name, from those of the files."""
        converter = deepcopy(self.converter)
        for pattern, source in self.sources:
            converter.add_tensor(self.first, source, pattern, tensors[source])
        made = converter.convert(self.first, model=model, config=model.config)
        return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


@dataclass(frozen=True)
class StoredWeights:
    """A model's weights in its files."""

    model: Any
    """The model without values."""
    files: Mapping[str, Path]
    """The file of each weight that is stored."""
    renamed: Mapping[str, str]
    """Name in the model, by name in the files, of the weights that are stored as they are."""
    conversions: Sequence[_Conversion]

    @classmethod
    def find(cls, directory: Path, model: Any) -> StoredWeights | None:
        """Find all weights of a model; None if only transformers knows how to read them.

        It does where the files are not safetensors, lack weights, have them in other shapes, or have an output layer of
        their own that the configuration ties to the embedding.

        Args:
            directory: of the model.
            model: the model without values.
        """
        files = _files(directory)
        shapes = {name: torch.empty(shape, device="meta") for name, shape in _shapes(files).items()}
        expected = model.state_dict(keep_vars=True)
        renamed, conversions = _assign(model, files, expected)
        found = {name: shapes[stored] for stored, name in renamed.items()}
        for conversion in conversions:
            found |= conversion(model, shapes)
        shared = [id(expected[name]) for name in found if name in expected]
        is_whole = {id(tensor) for tensor in expected.values()} == set(shared) and len(set(shared)) == len(found)
        if not is_whole or any(expected[name].shape != tensor.shape for name, tensor in found.items()):
            return None
        return cls(model, files, renamed, conversions)

    def read(self, targets: Mapping[str, torch.Tensor]) -> None:
        """Read this process's shard of each weight, and convert it to the target's dtype.

        Args:
            targets: tensors by their names in the model, sharded or not.
        """
        own = {stored: targets[name] for stored, name in self.renamed.items()}
        dcp.load(own, storage_reader=_Reader(set(self.files.values())), no_dist=True)
        for conversion in self.conversions:
            names = [source for _, source in conversion.sources]
            for name, tensor in conversion(self.model, _read_whole(self.files, names)).items():
                copy_shard(targets[name], tensor)


def _assign(
    model: Any, files: Mapping[str, Path], expected: Mapping[str, torch.Tensor]
) -> tuple[dict[str, str], list[_Conversion]]:
    """Return which stored weights are a model's by another name, and which are converted, as transformers does it."""
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    renamed: dict[str, str] = {}
    sources: dict[str, list[tuple[str, str]]] = {}
    for stored in sorted(files, key=dot_natural_key):
        name, pattern = rename_source_key(stored, renamings, converters, model.base_model_prefix, expected)
        if name not in expected and stored in expected:
            name, pattern = rename_source_key(stored, [], [], model.base_model_prefix, expected)
        if name in expected and pattern is not None:
            sources.setdefault(name, []).append((pattern, stored))
        elif name in expected:
            renamed[stored] = name
    return renamed, [_Conversion(name, by_pattern[own[0][0]], tuple(own)) for name, own in sources.items()]


class _Reader(dcp.HuggingFaceStorageReader):  # type: ignore[misc]  # torch is not followed by mypy
    """A reader of given files: a directory may hold others, such as the same weights in an older layout."""

    def __init__(self, files: Iterable[Path]) -> None:
        super().__init__(str(next(iter(files)).parent))
        self.fs = _Files(sorted(map(str, files)))


class _Files(FileSystem):  # type: ignore[misc]
    def __init__(self, names: list[str]) -> None:
        self.names = names

    def ls(self, path: Any) -> list[str]:
        return self.names


def _files(directory: Path) -> dict[str, Path]:
    """Return the file of each stored weight; none if the model has no safetensors."""
    if (directory / _ONLY_FILE).exists():
        with safe_open(directory / _ONLY_FILE, framework="pt") as file:
            return dict.fromkeys(file.keys(), directory / _ONLY_FILE)
    if (directory / _INDEX).exists():
        named = read_document(directory / _INDEX)["weight_map"]
        return {name: directory / file for name, file in named.items() if (directory / file).exists()}
    return {}


def _shapes(files: Mapping[str, Path]) -> dict[str, list[int]]:
    shapes: dict[str, list[int]] = {}
    for path in set(files.values()):
        with safe_open(path, framework="pt") as file:
            shapes |= {name: file.get_slice(name).get_shape() for name in file.keys() if name in files}  # noqa: SIM118
    return shapes


def _read_whole(files: Mapping[str, Path], names: Sequence[str]) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for path in {files[name] for name in names}:
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in names if files[name] == path}
    return tensors


def copy_shard(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy this process's part of a tensor into its shard."""
    with torch.no_grad():
        if not isinstance(target, DTensor):
            target.copy_(whole)
            return
        shape, offsets = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
        part = tuple(slice(offset, offset + length) for offset, length in zip(offsets, shape, strict=True))
        target.to_local().copy_(whole[part])


@dataclass(frozen=True)
class _Group:
    """Weights of the model that are stored together: one, or those that a conversion combines or divides."""

    names: tuple[str, ...]
    is_converted: bool
    stored_as: str

    def stored(self, model: Any, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights as the files have them, by their names there."""
        if not self.is_converted:
            return {self.stored_as: tensors[self.names[0]]}
        made: dict[str, torch.Tensor] = revert_weight_conversion(model, {name: tensors[name] for name in self.names})
        return made


def write(
    directory: Path, model: Any, value: Callable[[str, torch.Tensor], torch.Tensor], mesh: Mesh
) -> dict[str, torch.Tensor]:
    """Write a model's weights in files of similar size, each by another worker.

    Every worker has to call it. Weights are gathered one group at a time.

    Args:
        directory: to write; workers on machines that share no directory have one each.
        model: the model without values.
        value: returns a whole weight by its name; its second argument is that of the model without values.
        mesh: the workers.

    Returns:
        The weights that this worker has written, by their names in the files.
    """
    weights = _weights_once(model)
    files = _divide(_groups(model, weights), weights, mesh.world)
    numbers: dict[str, int] = {}
    own: dict[str, torch.Tensor] = {}
    for number, groups in enumerate(files, start=1):
        for group in groups:
            numbers |= dict.fromkeys(group.stored(model, weights), number)
            gathered = {name: value(name, weights[name]) for name in group.names}
            if number % mesh.world == mesh.rank:
                own |= {name: part.cpu().contiguous() for name, part in group.stored(model, gathered).items()}
    writer = dcp.HuggingFaceStorageWriter(str(directory), fqn_to_index_mapping=numbers)
    dcp.save(own, storage_writer=writer, process_group=mesh.files, no_dist=mesh.world == 1)
    mesh.together(lambda: _settle_headers(directory, own))
    if len(files) == 1:
        mesh.together(lambda: _name_only_file(directory, bool(own)))
    return own


def _settle_headers(directory: Path, own: Mapping[str, torch.Tensor]) -> None:
    """Leave only the format in the headers of this worker's files, at their length.

    The writer adds where each shard begins, in an order that changes, so that equal weights would not be equal files.
    """
    for path in directory.glob("*.safetensors"):
        with path.open("r+b") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
            if own.keys().isdisjoint(header):  # another worker's
                continue
            settled = json.dumps(header | {"__metadata__": {"format": "pt"}}, separators=(",", ":"), sort_keys=True)
            file.seek(8)
            file.write(settled.encode().ljust(length))


def _name_only_file(directory: Path, is_own: bool) -> None:
    (directory / _INDEX).unlink(missing_ok=True)
    if is_own:
        next(directory.glob("model-*.safetensors")).rename(directory / _ONLY_FILE)


def _weights_once(model: Any) -> dict[str, torch.Tensor]:
    """Return a model's weights and the buffers that belong into files, tied ones once."""
    once: dict[int, tuple[str, torch.Tensor]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if name not in (model._keys_to_ignore_on_save or ()):
            once.setdefault(id(tensor), (name, tensor))
    return dict(once.values())


def _groups(model: Any, names: Iterable[str]) -> list[_Group]:
    mapping = [entry for entry in get_model_conversion_mapping(model, add_legacy=False) if not _is_prefix(entry)]
    reverse = [entry.reverse_transform() for entry in mapping[::-1]]
    renamings = [entry for entry in reverse if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in reverse if isinstance(entry, WeightConverter)]
    groups: dict[str, list[str]] = {}
    converted = set()
    for name in sorted(names, key=dot_natural_key):
        stored_as, pattern = rename_source_key(name, renamings, converters, reverse=True)
        groups.setdefault(stored_as, []).append(name)
        if pattern is not None:
            converted.add(stored_as)
    return [_Group(tuple(own), stored_as in converted, stored_as) for stored_as, own in groups.items()]


def _is_prefix(entry: Any) -> bool:
    return isinstance(entry, PrefixChange)  # transformers leaves out those that the files may lack


def _divide(groups: Sequence[_Group], weights: Mapping[str, torch.Tensor], world: int) -> list[list[_Group]]:
    """Divide groups into files of similar size, at least one for each worker unless they are small."""
    sizes = [sum(weights[name].nbytes for name in group.names) for group in groups]
    most = min(_FILE_BYTES, max(-(-sum(sizes) // world), _PART_BYTES))
    files: list[list[_Group]] = []
    used = most
    for group, size in zip(groups, sizes, strict=True):
        if not files or used + size > most:
            files.append([])
            used = 0
        files[-1].append(group)
        used += size
    return files


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a weight as one tensor without gradients. If it is sharded, every worker has to call it."""
    value = tensor.detach()
    full: torch.Tensor = value.full_tensor() if isinstance(value, DTensor) else value
    return full


def read_written(directory: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Read weights back by their names in the files of a directory; those that it lacks are left out."""
    wanted = set(names)
    tensors: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in wanted.intersection(file.keys())}
    return tensors
