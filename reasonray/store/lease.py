"""The lease on a run, so that two drivers never work on one run at the same time, wherever it lies.

    <run>/lease/<id>.json    a driver's claim: host, process, job, generation; written again every few seconds

A driver writes its claim, then lists all claims, and holds the run if no other claim is alive. Whoever writes last sees
the other's claim, so two drivers never both hold it; two that start at once both step back and try again after a random
pause. This needs no conditional writes, only a store whose listings show what was written before, as those of S3 and of
local file systems do.

A claim is dead if its process is gone from this machine, or if it was not written again for a while. Ages are
differences of two times that the storage reports, so the drivers' clocks do not matter.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from reasonray.errors import UserError
from reasonray.store.progress import duration, log_line
from reasonray.store.run import Run
from reasonray.store.storage import Place, storage_error

_BEAT_SECONDS = 15.0
"""Between two writes of a claim."""
_DEAD_SECONDS = 90.0
"""Age at which a claim is dead."""
_TRIES = 20
_LONGEST_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Claim:
    """What a driver writes down about itself."""

    host: str
    process: int
    job: str
    """Id of its Ray job; "" if it was not submitted."""
    machine: str
    """Boot and process namespace: processes can be looked up where both are the same."""
    started: str
    """When the process started, by its machine."""
    generation: int = 0
    """A driver that takes over has a higher one."""
    is_held: bool = False
    """Whether the driver holds the run; else it is trying to."""

    @staticmethod
    def of_this_process(job: str) -> Claim:
        """Return the claim of this process."""
        process = os.getpid()
        return Claim(socket.gethostname(), process, job, _machine(), _start_of(process))

    def is_gone(self) -> bool:
        """Return whether the process is known to have ended."""
        return bool(self.machine) and self.machine == _machine() and _start_of(self.process) != self.started

    def __str__(self) -> str:
        return f"process {self.process} on host {self.host}" + (f" (job {self.job})" if self.job else "")


class Lease:
    """A driver's claim on a run, kept alive by a thread."""

    def __init__(
        self,
        folder: Place,
        claim: Claim,
        *,
        beat_seconds: float = _BEAT_SECONDS,
        dead_seconds: float = _DEAD_SECONDS,
    ) -> None:
        self._folder, self._claim = folder, claim
        self._name = f"{uuid.uuid4().hex}.json"
        self._beat_seconds, self._dead_seconds = beat_seconds, dead_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.taken_by: Claim | None = None
        """The driver that took the run over."""

    def acquire(self, name: str, *, take_over: bool = False) -> None:
        """Claim the run, and keep the claim alive until `release`.

        Args:
            name: of the run, for messages.
            take_over: whether to end the claim of another driver that is alive.

        Raises:
            UserError: another driver holds the run.
            OSError: the storage fails.
        """
        for _ in range(_TRIES):
            self._write()
            others = self._others(name)
            if take_over:
                self._supersede(others)
            elif others:
                (self._folder / self._name).delete()
                if any(claim.is_held for claim, _ in others.values()):
                    break
                time.sleep(random.uniform(0, _LONGEST_PAUSE))  # another driver started at the same moment
                continue
            self._claim = replace(self._claim, is_held=True)
            self._write()
            self._thread.start()
            return
        claim, age = next(iter(others.values()))
        raise UserError(
            f"run {name} is being worked on by {claim}, last heard of {duration(max(0.0, age))} ago; wait for it, stop "
            "it, give this run another name, or take it over with --take-over"
        )

    def release(self) -> None:
        """End the claim."""
        self._ended.set()
        self._thread.join()
        if self.taken_by is None:
            with suppress(OSError):  # a claim that cannot be deleted dies by itself
                (self._folder / self._name).delete()

    def _write(self) -> None:
        (self._folder / self._name).write(json.dumps(asdict(self._claim)).encode())

    def _claims(self) -> dict[str, tuple[Claim, float]]:
        """Return all claims with their ages in seconds, this driver's own included."""
        times = self._folder.times()
        now = times.get(self._name, max(times.values(), default=0.0))
        claims = {}
        for name, written_at in times.items():
            with suppress(FileNotFoundError):  # it was released since the listing
                claims[name] = Claim(**(self._folder / name).read_json()), now - written_at
        return claims

    def _others(self, run: str) -> dict[str, tuple[Claim, float]]:
        """Return the claims of other drivers that are alive; delete the dead ones."""
        alive = {}
        for name, (claim, age) in self._claims().items():
            if name == self._name:
                continue
            if claim.is_gone() or age > self._dead_seconds:
                log_line("lease", f"run {run} was left by {claim}, last heard of {duration(age)} ago")
                (self._folder / name).delete()
                self._claim = replace(self._claim, generation=max(self._claim.generation, claim.generation + 1))
            else:
                alive[name] = claim, age
        return alive

    def _supersede(self, others: Mapping[str, tuple[Claim, float]]) -> None:
        highest = max((claim.generation for claim, _ in others.values()), default=-1)
        self._claim = replace(self._claim, generation=max(self._claim.generation, highest + 1))
        for name in others:
            (self._folder / name).delete()

    def _beat(self) -> None:
        while not self._ended.wait(self._beat_seconds):
            with suppress(OSError):  # a store that is away for a moment; its commits report one that stays away
                claims = self._claims()
                newer = [claim for claim, _ in claims.values() if claim.generation > self._claim.generation]
                if newer:
                    self.taken_by = newer[0]
                    os.kill(os.getpid(), signal.SIGINT)  # the main thread ends as by Ctrl-C, wherever it waits
                    return
                self._write()


@contextmanager
def exclusive(run: Run, *, job: str = "", take_over: bool = False) -> Iterator[None]:
    """Hold a run against other drivers; the lease ends with the process, however it ends.

    Args:
        run: the run.
        job: id of the Ray job that this driver is, for the messages to others.
        take_over: whether to end the lease of a driver that is alive. That driver stops at its next sign of life.

    Raises:
        UserError: another driver is working on the run, or has taken it over, or its directory cannot be written.
    """
    lease = Lease(run.place / "lease", Claim.of_this_process(job))
    try:
        lease.acquire(run.name, take_over=take_over)
    except OSError as error:
        raise storage_error(run.place, error) from None
    try:
        yield
    except KeyboardInterrupt:
        if lease.taken_by is None:
            raise
        raise UserError(f"run {run.name} was taken over by {lease.taken_by}; what is finished is kept") from None
    finally:
        lease.release()


def _machine() -> str:
    """Return what this process shares with those that it can look up; "" where that is not known."""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    return ""


def _start_of(process: int) -> str:
    """Return when a process of this machine started, "" if there is none."""
    with suppress(OSError):
        stat = Path(f"/proc/{process}/stat").read_text()
        state, *others = stat.rpartition(")")[2].split()
        return "" if state == "Z" else others[18]
    return ""
