"""Run a program that a model wrote where it can do no harm: bubblewrap namespaces, limits, and nothing to find.

Inside there are the system's /usr and the Python interpreter, read-only, an empty /tmp of 64 MB, no network, no home,
no /proc and none of our environment; memory, processor time, processes and output are limited, and what is left in the
end is killed with the namespace. As root, the sandbox works under a user id of its own: limits on the number of
processes do not bind root.

This holds back what models write, by mistake or to please a test. The kernel is the host's: against a determined
attacker, give the whole cluster machines of its own.
"""

from __future__ import annotations

import os
import random
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from reasonray.config import Checking
from reasonray.errors import UserError

_SCRATCH_BYTES = 64 << 20
_PROCESSES = 32
_UIDS = range(1 << 20, 1 << 30)
"""User ids that nobody has; as root each sandbox takes one, so that its processes are counted alone."""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Limits:
    """What programs may use."""

    seconds: float = 10.0
    """Of wall time, for all tests of one program together."""
    memory_mb: int = 1024
    output_bytes: int = 1 << 20
    python: str = ""
    """Their interpreter, packages included; "" is the one below ours, without ours."""
    unsandboxed: bool = False
    """Run them bare: with the limits, but among everything that this machine has."""

    @staticmethod
    def of(checking: Checking) -> Limits:
        """Return what a configuration allows."""
        return Limits(
            checking.program_seconds,
            checking.program_memory_mb,
            python=checking.python,
            unsandboxed=checking.unsandboxed,
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    status: int
    """Exit status, negative for a signal."""
    output: bytes
    errors: bytes
    """The last of what it wrote to stderr."""
    report: bytes
    """What came on our own channel."""
    limit: str = ""
    """The limit at which it was killed."""


def refuse_without(limits: Limits) -> None:
    """Refuse to go on where no sandbox can be made.

    Raises:
        UserError: there is none, and `unsandboxed` does not allow to do without.
    """
    if not limits.unsandboxed and (reason := missing()):
        raise UserError(
            f"programs cannot be checked here: {reason}; install bubblewrap (apt-get install bubblewrap) and allow "
            "user namespaces, or set checking.unsandboxed = true where nothing can be lost"
        )


@cache
def missing() -> str:
    """Return why no sandbox can be made on this machine, "" if it can."""
    if shutil.which("bwrap") is None:
        return "there is no bwrap command"
    return "" if _walls() is not None else "bwrap cannot make its namespaces"


def run(code: str, *, stdin: bytes, job: bytes, limits: Limits, seconds: float) -> Ended:
    """Run Python code within the limits and `seconds` of wall time.

    Args:
        code: our own first lines, which call in the program. The last two arguments of theirs are open files: of
            `job`, and of the channel that the report comes by.
        stdin: what the program reads.
        job: what our own lines read.
        limits: what it may use.
        seconds: wall time, at most what the limits allow.
    """
    seconds = min(seconds, limits.seconds)
    reading, writing = os.pipe()
    given, asked = _memory_file(stdin), _memory_file(job)
    inherited = (asked, writing)
    command = [*_command(limits, seconds), "-s", "-P", "-B", "-c", code, *map(str, inherited)]
    child = subprocess.Popen(
        command,
        stdin=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    for number in (writing, given, asked):
        os.close(number)
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdout, child.stderr, os.fdopen(reading, "rb") as report:
        streams = (child.stdout.fileno(), child.stderr.fileno(), report.fileno())
        return _watched(child, streams, time.monotonic() + seconds, limits.output_bytes)


def _watched(child: subprocess.Popen[bytes], streams: tuple[int, int, int], deadline: float, most: int) -> Ended:
    """Read what a program writes until it ends or comes to a limit; nothing of it is left then."""
    written = {stream: bytearray() for stream in streams}
    ended, limit = os.pidfd_open(child.pid), ""
    with selectors.DefaultSelector() as selector:
        for source in (*streams, ended):
            os.set_blocking(source, False)
            selector.register(source, selectors.EVENT_READ)
        while not limit and selector.get_map():
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if ready <= {ended} and ended in ready:
                break  # what it has written is read; a child of its own may hold the streams for ever
            for stream in ready - {ended}:
                if not _read(stream, written[stream], keep_end=stream == streams[1], most=most):
                    selector.unregister(stream)
            if len(written[streams[0]]) > most or len(written[streams[2]]) > most:
                limit = f"more than {most:,} bytes of output"
            elif time.monotonic() >= deadline:
                limit = "time limit"
    os.close(ended)
    _kill(child)
    output, errors, report = (bytes(written[stream]) for stream in streams)
    return Ended(child.wait(), output, errors, report, limit)


def _read(stream: int, into: bytearray, *, keep_end: bool, most: int) -> bool:
    """Read once; return whether there may be more."""
    piece = os.read(stream, 1 << 16)
    into += piece
    if keep_end and len(into) > most:
        del into[:-4096]
    return bool(piece)


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)  # bwrap's end is the end of its namespace and all that is in it


def _memory_file(content: bytes) -> int:
    number = os.memfd_create("reasonray")
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _command(limits: Limits, seconds: float) -> list[str]:
    interpreter, folders = _interpreter(limits.python)
    confined = [
        "prlimit",
        f"--as={limits.memory_mb << 20}",
        f"--cpu={int(seconds) + 2}",
        f"--fsize={_SCRATCH_BYTES}",
        "--nofile=64",
        "--core=0",
    ]
    if limits.unsandboxed:
        return ["setpriv", "--pdeathsig", "KILL", *confined, interpreter]
    walls = _walls()
    if walls is None:
        raise UserError(missing())
    command, privileged = list(walls), _is_privileged(walls)
    for folder in folders:
        for above in reversed(Path(folder).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(above)]
        command += ["--ro-bind", folder, folder]
    identity = str(random.choice(_UIDS))
    drop = ["setpriv", "--reuid", identity, "--regid", identity, "--clear-groups"] if privileged else []
    return [*command, *confined, f"--nproc={_PROCESSES}", *drop, interpreter]


@cache
def _walls() -> tuple[str, ...] | None:
    """Return the bwrap command that works here, None if none does; as root, rather without a user namespace."""
    capabilities = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    apart = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    system = [part for path in _SYSTEM for part in ("--ro-bind-try", path, path)]
    scratch = ("--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp")
    bare = ("--clearenv", *(part for name, value in _ENVIRONMENT.items() for part in ("--setenv", name, value)))
    kinds = [(*apart, *capabilities), ("--unshare-all",)] if os.geteuid() == 0 else [("--unshare-all",)]
    for kind in kinds:
        command = ("bwrap", *kind, "--die-with-parent", "--new-session", *system, "--dev", "/dev", *scratch, *bare)
        if subprocess.run([*command, "true"], capture_output=True, env=_ENVIRONMENT).returncode == 0:
            return command
    return None


def _is_privileged(walls: Sequence[str]) -> bool:
    return "CAP_SETUID" in walls


@cache
def _interpreter(python: str) -> tuple[str, tuple[str, ...]]:
    """Return the path of an interpreter and the folders that it needs, beside the system's.

    Raises:
        UserError: it is none.
    """
    path = python or str(Path(sys.executable).resolve())
    tell = "import sys; print(sys.prefix); print(sys.base_prefix)"
    try:
        told = subprocess.run([path, "-I", "-c", tell], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"checking.python: {path} is no Python interpreter that runs here ({error})") from None
    folders = dict.fromkeys((*told.stdout.split("\n")[:2], str(Path(path).parent.parent)))
    return path, tuple(folder for folder in folders if Path(folder).parts[1] not in ("usr", "lib", "bin"))
