"""Compaction while a ledger is written to."""

import time
from pathlib import Path

import pytest

from reasonray.sampling.compaction import compacting
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from tests.factories import a_rollout


@pytest.mark.ray
def test_small_segments_are_merged_while_others_are_committed(ray_cluster: None, tmp_path: Path) -> None:
    ledger = Ledger(place(tmp_path))
    for sample in range(40):
        ledger.append([a_rollout(sample=sample)])
    with compacting(ledger, pause_seconds=0.1):
        sample, deadline = 40, time.monotonic() + 60
        while len(ledger.segments()) >= 40 and time.monotonic() < deadline:
            ledger.append([a_rollout(sample=sample)])
            sample += 1
            time.sleep(0.05)
    assert len(ledger.segments()) < 40
    assert sorted(ledger.read(["sample"])["sample"].to_pylist()) == list(range(sample))
