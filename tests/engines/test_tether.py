"""Processes that an engine started are gone as soon as the process that started them is, even if that one is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.commands import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")

PROGRAM = """
import multiprocessing, os, sys, time
from reasonray.engines.tether import tethered_children

def grandchild(pids):
    pids.put(os.getpid())
    time.sleep(600)

def child(pids):
    process = multiprocessing.get_context("spawn").Process(target=grandchild, args=(pids,))
    process.start()
    pids.put(os.getpid())
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    pids = context.Queue()
    with tethered_children():
        context.Process(target=child, args=(pids,)).start()
    print(pids.get(), pids.get(), flush=True)
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_children_and_grandchildren_die_with_a_killed_parent(tmp_path: Path) -> None:
    program = tmp_path / "program with a space.py"
    program.write_text(PROGRAM)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "REASONRAY_CACHE": str(tmp_path / "the cache")}
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(children) == 2
    assert all(is_running(pid) for pid in children)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(is_running(pid) for pid in children)
