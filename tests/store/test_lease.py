"""The lease on a run: who may work on it, and who finds out what about whom."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from reasonray.errors import UserError
from reasonray.store.lease import Claim, Lease, exclusive
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.storage import Place, place
from tests.factories import a_minimal_config

HOLD = (
    "import sys, time; from reasonray.store.lease import exclusive; from reasonray.store.run import find_run\n"
    "with exclusive(find_run(sys.argv[1]), job='raysubmit_7'): print('held', flush=True); time.sleep(60)"
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return begin_or_resume(a_minimal_config(tmp_path))


def a_holder(run: Run) -> "subprocess.Popen[str]":
    other = subprocess.Popen([sys.executable, "-c", HOLD, run.place.path], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    return other


def elsewhere(folder: Place, **changes: object) -> Place:
    """Write the claim of a driver on another host."""
    claim = replace(Claim.of_this_process("raysubmit_1"), host="node-7", machine="other", is_held=True, **changes)
    file = folder / "0.json"
    file.write(json.dumps(asdict(claim)).encode())
    return file


def age(file: Place, seconds: float) -> None:
    os.utime(file.path, (time.time() - seconds,) * 2)


def test_a_second_driver_is_told_who_works_on_the_run(run: Run) -> None:
    other = a_holder(run)
    with pytest.raises(UserError) as error, exclusive(run):
        pass
    message = str(error.value)
    for part in (f"process {other.pid} on host ", "raysubmit_7", "last heard of 0:0", "--take-over"):
        assert part in message
    assert "\n" not in message
    other.kill()
    other.wait()
    with exclusive(run):
        pass
    assert not (run.place / "lease").names(), "nothing is left"


def test_a_driver_that_was_killed_a_moment_ago_is_replaced_at_once(run: Run) -> None:
    other = a_holder(run)
    other.kill()
    other.wait()
    began = time.monotonic()
    with exclusive(run):
        assert time.monotonic() - began < 2


def test_a_driver_of_another_host_is_dead_when_it_is_not_heard_of(run: Run) -> None:
    folder = run.place / "lease"
    file = elsewhere(folder)
    age(file, 60)
    with pytest.raises(UserError, match=r"host node-7 \(job raysubmit_1\), last heard of 1:0\d ago"), exclusive(run):
        pass
    age(file, 120)
    with exclusive(run):
        assert len(folder.names()) == 1


@pytest.mark.parametrize("skew", [-86_400.0, 86_400.0])
def test_the_clocks_of_the_drivers_do_not_matter(run: Run, monkeypatch: pytest.MonkeyPatch, skew: float) -> None:
    elsewhere(run.place / "lease")
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + skew)
    with pytest.raises(UserError, match="node-7"), exclusive(run):
        pass


def test_a_process_of_another_machine_with_the_same_number_is_not_taken_for_a_dead_one(run: Run) -> None:
    elsewhere(run.place / "lease", process=2**30)
    with pytest.raises(UserError, match="node-7"), exclusive(run):
        pass


def test_of_many_drivers_that_start_at_once_one_works_at_a_time(run: Run) -> None:
    inside, most, refused = [], [], []
    start = threading.Barrier(8)

    def drive() -> None:
        lease = Lease(run.place / "lease", Claim.of_this_process(""))
        start.wait()
        try:
            lease.acquire("a-run")
        except UserError as error:
            refused.append(error)
            return
        inside.append(lease)
        most.append(len(inside))
        time.sleep(0.2)
        inside.remove(lease)
        lease.release()

    threads = [threading.Thread(target=drive) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) + len(refused) == 8
    assert set(most) <= {1}
    with exclusive(run):
        pass


def test_a_run_can_be_taken_over_and_the_other_driver_ends_with_one_line(run: Run) -> None:
    often = "import reasonray.store.lease as lease; lease.Lease.__init__.__kwdefaults__['beat_seconds'] = 0.2\n"
    main = (
        "import sys; from reasonray.cli.main import exit_status\n"
        "def work():\n exec(compile(sys.argv[2], 'hold', 'exec'))\n"
        "sys.exit(exit_status(work))"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", often + main, run.place.path, HOLD],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with exclusive(run, take_over=True, job="raysubmit_9"):
        _, errors = other.communicate(timeout=20)
        with pytest.raises(UserError, match=f"process {os.getpid()} "), exclusive(run):
            pass
    assert other.returncode == 2
    assert errors.count("\n") == 1
    assert "was taken over by process" in errors
    assert "raysubmit_9" in errors


def test_an_interrupt_is_still_an_interrupt(run: Run) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive(run):
        signal.raise_signal(signal.SIGINT)


def test_a_lease_of_a_place_that_cannot_be_written_is_one_line(run: Run) -> None:
    Path(run.place.path, "lease").touch()
    with pytest.raises(UserError, match=r"cannot use .*a-run"), exclusive(run):
        pass
    assert place(run.place.path)


def test_a_claim_that_is_being_written_is_not_read(run: Run) -> None:
    folder = Path(run.place.path) / "lease"
    folder.mkdir(exist_ok=True)
    (folder / ".0123.json.4567.tmp").write_bytes(b"")
    with exclusive(run):
        pass
