"""Sampling on several nodes: a replica that spans two, and a replica whose node is draining."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray


def run_on_nodes(scenario: str, root: Path) -> dict[str, Any]:
    script = [sys.executable, str(Path(__file__).parent / "nodes.py"), scenario, str(root)]
    driver = subprocess.run(script, capture_output=True, text=True, timeout=200)
    assert driver.returncode == 0, driver.stderr[-3000:]
    result: dict[str, Any] = json.loads(driver.stdout.splitlines()[-1])
    return result


def test_a_replica_on_two_nodes_frees_their_gpus_at_its_end(tmp_path: Path) -> None:
    result = run_on_nodes("pipeline", tmp_path)
    assert result["rollouts"] == 12
    assert (result["groups_during"], result["free_gpus_during"]) == (["CREATED"], 0)
    assert (result["groups_after"], result["free_gpus_after"]) == (["REMOVED"], 2)


def test_a_replica_leaves_a_draining_node_and_nothing_dies(tmp_path: Path) -> None:
    result = run_on_nodes("drain", tmp_path)
    assert result == {"rollouts": 800, "left": 1, "deaths": 0, "gone": True}
