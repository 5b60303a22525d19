"""Several nodes: a replica that spans two, and one whose node is about to go."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray


def on_nodes(what: str, root: Path) -> dict[str, Any]:
    script = [sys.executable, str(Path(__file__).parent / "nodes.py"), what, str(root)]
    done = subprocess.run(script, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_a_replica_of_two_nodes_gives_their_gpus_back(tmp_path: Path) -> None:
    found = on_nodes("pipeline", tmp_path)
    assert found["rollouts"] == 12
    assert (found["groups_during"], found["free_gpus_during"]) == (["CREATED"], 0)
    assert (found["groups_after"], found["free_gpus_after"]) == (["REMOVED"], 2)


def test_a_replica_leaves_a_node_that_is_about_to_go_and_nothing_dies(tmp_path: Path) -> None:
    found = on_nodes("drain", tmp_path)
    assert found == {"rollouts": 800, "left": 1, "deaths": 0, "gone": True}
