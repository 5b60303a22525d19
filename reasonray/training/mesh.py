"""The processes of a training: which of them share weights, which share a pack, and how they wait for file work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from torch.distributed.device_mesh import DeviceMesh

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training.attention import Context

T = TypeVar("T")


@dataclass(frozen=True)
class Mesh:
    """The processes of a training, as one of them sees it; by default there is one."""

    rank: int = 0
    world: int = 1
    shard: int = 1
    """Processes that share one copy of the weights. There are world / shard copies."""
    context: Context | None = None
    """The processes that share each pack with this one; None if it is alone."""
    files: Any = None
    """Process group in which processes wait while one of them reads or writes files; None without process groups."""
    states: Any = None
    """Process group of the threads that write states while training goes on; None without process groups."""

    @classmethod
    def open(cls, training: Training, rank: int, world: int) -> Self:
        """Create the process groups. Every process has to call it.

        Raises:
            UserError: training.shard or training.context does not divide the number of processes.
        """
        shard = training.shard or world
        if world % shard or shard % training.context:
            raise UserError(
                f"{world} processes cannot be divided by training.shard = {shard} and context = {training.context}"
            )
        if not dist.is_initialized():
            return cls(rank, world)
        files, states = (dist.new_group(backend="gloo", timeout=training.FILE_PATIENCE) for _ in range(2))
        context = None
        if training.context > 1:
            group, _ = dist.new_subgroups(training.context)
            context = Context(rank % training.context, training.context, group)
        return cls(rank, world, shard, context, files, states)

    @property
    def pack_group(self) -> int:
        """Number of the group of processes that compute the same packs."""
        return self.rank // (self.context.size if self.context else 1)

    @property
    def pack_groups(self) -> int:
        """Number of such groups; of processes, if each has packs of its own."""
        return self.world // (self.context.size if self.context else 1)

    def of_weights(self, device: torch.device) -> DeviceMesh:
        """Return the mesh over which FSDP shards weights: shard, or replicate × shard."""
        if self.shard == self.world:
            return dist.init_device_mesh(device.type, (self.world,))
        copies = self.world // self.shard
        return dist.init_device_mesh(device.type, (copies, self.shard), mesh_dim_names=("replicate", "shard"))

    def any(self, *flags: bool, device: torch.device) -> tuple[bool, ...]:
        """Return for each flag whether it is set on any process. Every process has to call it."""
        return self._any(flags, device, None)

    def wait_for_files(self, fault: bool = False) -> bool:
        """Wait until all processes are done with their files; return whether any of them failed.

        Collectives on GPUs would occupy them and give up after some minutes; this group has the patience for a whole
        model. Every process has to call it.
        """
        return self._any((fault,), torch.device("cpu"), self.files)[0]

    def by_first(self, work: Callable[[], T]) -> T | None:
        """Let the first process do work on files while the others wait; return its result there, None elsewhere.

        Every process has to call it.

        Raises:
            UserError, OSError: as `together`.
        """
        return self.together(work if self.rank == 0 else lambda: None)

    def together(self, work: Callable[[], T]) -> T:
        """Let each process do its part of work on files, and return its result when all of them are done.

        Every process has to call it.

        Raises:
            UserError, OSError: the work raised it, on any process.
        """
        result, fault = None, None
        try:
            result = work()
        except (UserError, OSError, SafetensorError) as error:  # raised below, once the others know
            fault = error
        is_refused = self.wait_for_files(isinstance(fault, UserError))
        if self.wait_for_files(fault is not None):
            another = (
                "another worker refuses the student; its message says why" if is_refused else "another worker failed"
            )
            raise fault or (UserError if is_refused else OSError)(another)
        return cast("T", result)

    def in_turn(self, work: Callable[[], None]) -> None:
        """Let the first process do work on files, and then the others, which may share its directory.

        Every process has to call it.
        """
        for is_turn in (self.rank == 0, self.rank > 0):
            self.together(work if is_turn else lambda: None)

    def _any(self, flags: tuple[bool, ...], device: torch.device, group: Any) -> tuple[bool, ...]:
        if self.world == 1:
            return flags
        set_anywhere = torch.tensor(flags, dtype=torch.float32, device=device)
        dist.all_reduce(set_anywhere, dist.ReduceOp.MAX, group=group)
        return tuple(bool(flag) for flag in set_anywhere.tolist())


ALONE = Mesh()
"""The mesh of a single process."""
