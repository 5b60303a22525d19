"""Sampling on several nodes: replicas that span two, nodes that drain, fail or lack a label, and an autoscaler."""

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
    assert result["gpus_by_bundle"] == [1, 1, 1, 1], "vLLM wants one GPU a bundle"
    assert result["bundles_by_node"] == [2, 2]
    assert (result["groups_after"], result["free_gpus_after"]) == (["REMOVED"], 4)


def test_a_replica_leaves_a_draining_node_and_nothing_dies(tmp_path: Path) -> None:
    result = run_on_nodes("drain", tmp_path)
    assert result == {"rollouts": 800, "left": 1, "deaths": 0, "gone": True}


def test_a_node_on_which_no_engine_starts_is_avoided(tmp_path: Path) -> None:
    result = run_on_nodes("sick", tmp_path)
    assert result == {"rollouts": 400, "causes": ["RuntimeError: no driver"]}


def test_a_teacher_stays_on_the_nodes_with_its_labels(tmp_path: Path) -> None:
    result = run_on_nodes("labels", tmp_path)
    assert (result["rollouts"], result["role"]) == (100, "teacher")
    assert "no node of the cluster has the labels of scripted (role = unknown)" in result["refusal"]


def test_a_finished_teacher_makes_room_for_the_next_where_an_autoscaler_has_no_more_nodes(tmp_path: Path) -> None:
    result = run_on_nodes("autoscaler", tmp_path)
    assert result["rollouts"] == {"one": 120, "two": 120}
    assert result["deaths"] == 0
    assert result["accelerators"] <= 1, "replicas that wait for a node cost nothing"
