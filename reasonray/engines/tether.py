"""Child processes that end with the process that started them, whatever ends it.

An engine computes in processes of its own. If the actor that started them is killed, they keep the accelerator, and no
other engine can start there. Linux can signal a process when its parent dies (PR_SET_PDEATHSIG, prctl(2)). The signal
has to be asked for inside the child, so children are launched by a script that asks for it and then becomes Python.
Their own children are launched in the same way.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from multiprocessing import resource_tracker, spawn
from pathlib import Path

from reasonray.models import cache_directory

_SCRIPT = """\
#!/bin/sh
exec {python} -IS -c {program} "$PPID" "$@"
"""
_PROGRAM = """\
import ctypes, os, sys
parent, arguments = int(sys.argv[1]), sys.argv[2:]
ctypes.CDLL(None).prctl(1, 9)  # PR_SET_PDEATHSIG, SIGKILL
if os.getppid() != parent:  # it died before the signal was asked for
    os._exit(1)
program = arguments.index("-c") + 1 if "-c" in arguments else 0
if program:
    tethered = f"from multiprocessing import spawn; spawn.set_executable({script!r}); "
    arguments[program] = tethered + arguments[program]
os.execv({python!r}, [{python!r}, *arguments])
"""


@contextmanager
def tethered_children() -> Iterator[None]:
    """Kill the processes that `multiprocessing` spawns in this block, and theirs, when their parent dies.

    The parent is a thread, to the kernel: the one that starts a process must live as long as the process is needed.
    Processes that are forked are not covered. On other systems than Linux nothing is done.
    """
    if sys.platform != "linux":
        yield
        return
    resource_tracker.ensure_running()  # it outlives its parent on purpose, to free what the parent left behind
    before = spawn.get_executable()
    spawn.set_executable(str(_launcher(os.fsdecode(before))))
    try:
        yield
    finally:
        spawn.set_executable(before)


def _launcher(python: str) -> Path:
    """Return the script that launches a Python which dies with its parent; write it if this is the first time."""
    name = blake2b(f"{python}{_SCRIPT}{_PROGRAM}".encode(), digest_size=6).hexdigest()
    script = cache_directory() / f"tethered-{name}"
    if not script.exists():
        program = _PROGRAM.replace("{script!r}", repr(str(script))).replace("{python!r}", repr(python))
        scratch = script.with_name(f"{script.name}.{os.getpid()}")
        script.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(_SCRIPT.format(python=shlex.quote(python), program=shlex.quote(program)))
        scratch.chmod(0o700)
        scratch.replace(script)
    return script
