"""A sandbox for programs that a model wrote, and for what evaluates its answers: bubblewrap namespaces and limits.

The program sees the system's /usr and the Python interpreter, read-only, and an empty /tmp of 64 MB. It has no network,
no home, no /proc and none of our environment. Memory, processor time, processes and output are limited, and its
processes are killed with the namespace. As root, the sandbox works under a user id of its own, because limits on the
number of processes do not bind root.

It contains what models write, by mistake or to please a test. The kernel is the host's: against a determined attacker,
give the whole cluster machines of its own.
"""

from __future__ import annotations

import os
import random
import select
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

_TRY_PAUSES = (0.2, 1.0)
"""Seconds between tries to make a sandbox."""
_SCRATCH_BYTES = 64 << 20
_PROCESSES = 32
_UIDS = range(1 << 20, 1 << 30)
"""User ids of nobody. As root each sandbox takes one, so that its processes are counted alone."""
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": "/tmp", "OMP_NUM_THREADS": "1"}
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin", "/etc/ld.so.cache")


@dataclass(frozen=True, slots=True)
class Limits:
    """The resources that a program may use."""

    seconds: float = 10.0
    """Wall time for all tests of one program together."""
    memory_mb: int = 1024
    output_bytes: int = 1 << 20
    python: str = ""
    """The interpreter of programs, with its packages; "" is the one below ours, without our packages."""
    unsandboxed: bool = False
    """Run programs without namespaces: within the limits, but with access to everything on this machine."""

    @staticmethod
    def of(checking: Checking) -> Limits:
        """Return the limits of a configuration."""
        return Limits(
            checking.program_seconds,
            checking.program_memory_mb,
            python=checking.python,
            unsandboxed=checking.unsandboxed,
        )


@dataclass(frozen=True, slots=True)
class Execution:
    """The end of a program, and its output."""

    status: int
    """Exit status, negative for a signal."""
    output: bytes
    errors: bytes
    """The end of its stderr."""
    report: bytes
    """The bytes written to our own channel."""
    limit: str = ""
    """The limit at which it was killed, "" for none."""


def refuse_without(limits: Limits) -> None:
    """Raise if programs cannot be sandboxed here but must be.

    Raises:
        UserError: no sandbox can be made, and `unsandboxed` is not set.
    """
    if not limits.unsandboxed and (reason := missing()):
        raise UserError(
            f"programs, and gym tasks that reasoning-gym itself scores, cannot be checked here: {reason}; install "
            "bubblewrap (apt-get install bubblewrap) and allow user namespaces, or set checking.unsandboxed = true "
            "where nothing can be lost"
        )


@cache
def missing() -> str:
    """Return why no sandbox can be made on this machine, or "" if one can."""
    if shutil.which("bwrap") is None:
        return "there is no bwrap command"
    return "" if _bwrap() is not None else "bwrap cannot make its namespaces"


def run(code: str, *, stdin: bytes, job: bytes, limits: Limits, seconds: float) -> Execution:
    """Run Python code within the limits.

    Args:
        code: our wrapper, which calls the program. Its last two arguments are open files: `job`, and the channel for
            the report.
        stdin: the program's input.
        job: the wrapper's input.
        limits: the resources that it may use.
        seconds: wall time, at most that of the limits.
    """
    seconds = min(seconds, limits.seconds)
    channel, channel_end = os.pipe()
    stdin_file, job_file = _memory_file(stdin), _memory_file(job)
    inherited = (job_file, channel_end)
    command = [*_command(limits, seconds, ()), "-s", "-P", "-B", "-c", code, *map(str, inherited)]
    child = subprocess.Popen(
        command,
        stdin=stdin_file,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    for number in (channel_end, stdin_file, job_file):
        os.close(number)
    assert child.stdout is not None
    assert child.stderr is not None
    with child.stdout, child.stderr, os.fdopen(channel, "rb") as report:
        streams = (child.stdout.fileno(), child.stderr.fileno(), report.fileno())
        return _watched(child, streams, time.monotonic() + seconds, limits.output_bytes)


def converse(code: str, *, limits: Limits, arguments: Sequence[str], folders: Sequence[str]) -> Conversation:
    """Start Python code that answers lines with lines, for as long as it is asked.

    Args:
        code: our server. Its last two arguments are open files: requests to read, replies to write.
        limits: the resources that it may use; its time is limited by whoever asks.
        arguments: further arguments, before these two.
        folders: folders that it may read, besides those of the interpreter.
    """
    requests_end, requests = os.pipe()
    replies, replies_end = os.pipe()
    inherited = (requests_end, replies_end)
    command = [*_command(limits, None, folders), "-s", "-P", "-B", "-c", code, *arguments, *map(str, inherited)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=inherited,
        env=_ENVIRONMENT,
        cwd="/",
        start_new_session=True,
    )
    for number in inherited:
        os.close(number)
    return Conversation(child, requests, replies)


class Conversation:
    """A process in the sandbox that answers lines with lines."""

    def __init__(self, child: subprocess.Popen[bytes], requests: int, replies: int) -> None:
        self._child, self._requests, self._replies = child, requests, replies
        os.set_blocking(requests, False)
        os.set_blocking(replies, False)

    def ask(self, line: bytes, seconds: float) -> bytes | None:
        """Send a line and return the reply, or None if the process has died or does not reply in time."""
        deadline, rest = time.monotonic() + seconds, memoryview(line + b"\n")
        while rest:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._requests], [], left)[1]:
                return None
            try:
                rest = rest[os.write(self._requests, rest) :]
            except BrokenPipeError:
                return None
        return self.read(deadline - time.monotonic())

    def read(self, seconds: float) -> bytes | None:
        """Return the next line, or None if the process has died or writes none in time."""
        deadline, line = time.monotonic() + seconds, bytearray()
        while not line.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                return None
            piece = os.read(self._replies, 1 << 16)
            if not piece:
                return None
            line += piece
        return bytes(line)

    def close(self) -> str:
        """Kill the process, and return what it wrote to stderr before its first reply."""
        _kill(self._child)
        os.close(self._requests)
        os.close(self._replies)
        assert self._child.stderr is not None
        with self._child.stderr as errors:
            self._child.wait()
            return errors.read().decode(errors="replace")


def _watched(
    child: subprocess.Popen[bytes], streams: tuple[int, int, int], deadline: float, max_bytes: int
) -> Execution:
    """Read a program's output until it ends or reaches a limit, then kill the rest of it."""
    written = {stream: bytearray() for stream in streams}
    ended, limit = os.pidfd_open(child.pid), ""
    with selectors.DefaultSelector() as selector:
        for source in (*streams, ended):
            os.set_blocking(source, False)
            selector.register(source, selectors.EVENT_READ)
        while not limit and selector.get_map():
            ready = {key.fd for key, _ in selector.select(max(0.0, deadline - time.monotonic()))}
            if ready <= {ended} and ended in ready:
                break  # its output has been read; a child process may hold the streams open for ever
            for stream in ready - {ended}:
                if not _read(stream, written[stream], keep_end=stream == streams[1], max_bytes=max_bytes):
                    selector.unregister(stream)
            if len(written[streams[0]]) > max_bytes or len(written[streams[2]]) > max_bytes:
                limit = f"more than {max_bytes:,} bytes of output"
            elif time.monotonic() >= deadline:
                limit = "time limit"
    os.close(ended)
    _kill(child)
    output, errors, report = (bytes(written[stream]) for stream in streams)
    return Execution(child.wait(), output, errors, report, limit)


def _read(stream: int, buffer: bytearray, *, keep_end: bool, max_bytes: int) -> bool:
    """Read once, and return whether there may be more."""
    piece = os.read(stream, 1 << 16)
    buffer += piece
    if keep_end and len(buffer) > max_bytes:
        del buffer[:-4096]
    return bool(piece)


def _kill(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)  # the end of bwrap ends its namespace and every process in it


def _memory_file(content: bytes) -> int:
    number = os.memfd_create("reasonray")
    with open(number, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(number, 0, os.SEEK_SET)
    return number


def _command(limits: Limits, seconds: float | None, packages: Sequence[str]) -> list[str]:
    """Return the command up to the interpreter: ours with `packages`, or that of programs. None: no limit of time."""
    interpreter, folders = _interpreter("" if packages else limits.python)
    confined = [
        "prlimit",
        f"--as={limits.memory_mb << 20}",
        *([f"--cpu={int(seconds) + 2}"] if seconds is not None else []),
        f"--fsize={_SCRATCH_BYTES}",
        "--nofile=64",
        "--core=0",
    ]
    if limits.unsandboxed:
        return ["setpriv", "--pdeathsig", "KILL", *confined, interpreter]
    bwrap = _bwrap()
    if bwrap is None:
        raise UserError(missing())
    command, privileged = list(bwrap), _is_privileged(bwrap)
    for folder in (*folders, *packages):
        for above in reversed(Path(folder).parents[:-1]):
            command += ["--perms", "0755", "--dir", str(above)]
        command += ["--ro-bind", folder, folder]
    identity = str(random.choice(_UIDS))
    drop = ["setpriv", "--reuid", identity, "--regid", identity, "--clear-groups"] if privileged else []
    return [*command, *confined, f"--nproc={_PROCESSES}", *drop, interpreter]


def _bwrap() -> tuple[str, ...] | None:
    """Return the bwrap command that works here, or None if none does.

    Only a command that works is remembered: on a busy machine one try may fail (no process or memory is left).
    """
    try:
        return _working_bwrap()
    except OSError:
        return None


@cache
def _working_bwrap() -> tuple[str, ...]:
    """Return the bwrap command that works here. As root, prefer one without a user namespace.

    Raises:
        OSError: none does, at several tries.
    """
    capabilities = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
    separate = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try")
    system = [part for path in _SYSTEM for part in ("--ro-bind-try", path, path)]
    scratch = ("--perms", "1777", "--size", str(_SCRATCH_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp")
    bare = ("--clearenv", *(part for name, value in _ENVIRONMENT.items() for part in ("--setenv", name, value)))
    kinds = [(*separate, *capabilities), ("--unshare-all",)] if os.geteuid() == 0 else [("--unshare-all",)]
    for pause in (*_TRY_PAUSES, None):
        for kind in kinds:
            command = ("bwrap", *kind, "--die-with-parent", "--new-session", *system, "--dev", "/dev", *scratch, *bare)
            if subprocess.run([*command, "true"], capture_output=True, env=_ENVIRONMENT).returncode == 0:
                return command
        if pause is not None:
            time.sleep(pause)
    raise OSError("bwrap cannot make its namespaces")


def _is_privileged(bwrap: Sequence[str]) -> bool:
    return "CAP_SETUID" in bwrap


@cache
def _interpreter(python: str) -> tuple[str, tuple[str, ...]]:
    """Return the path of an interpreter, and the folders that it needs besides the system's.

    Raises:
        UserError: the path is not an interpreter that runs here.
    """
    path = python or str(Path(sys.executable).resolve())
    script = "import sys; print(sys.prefix); print(sys.base_prefix)"
    try:
        printed = subprocess.run([path, "-I", "-c", script], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(f"checking.python: {path} is not a Python interpreter that runs here ({error})") from None
    folders = dict.fromkeys((*printed.stdout.split("\n")[:2], str(Path(path).parent.parent)))
    return path, tuple(folder for folder in folders if Path(folder).parts[1] not in ("usr", "lib", "bin"))
