"""The pool of replicas, on real Ray."""

from pathlib import Path

import pytest

from reasonray.sampling.pool import ReplicaPool
from reasonray.sampling.work import EngineSpec
from reasonray.store.run import begin_or_resume
from tests.factories import a_scripted_config

pytestmark = pytest.mark.ray


def test_a_pool_leaves_room_for_training_only_beside_its_replicas(ray_cluster: None, tmp_path: Path) -> None:
    """A training that asks for all CPUs of a machine waits forever for those of an idle engine."""
    run = begin_or_resume(a_scripted_config(tmp_path))
    with ReplicaPool(run) as pool:
        assert pool.leaves_room(8, 1.0)
        assert pool.leaves_room(1, 8.0)
        pool.start_replica(EngineSpec.of(run, run.config.teachers[0]))
        assert pool.leaves_room(7, 1.0)
        assert not pool.leaves_room(8, 1.0)
        assert pool.leaves_room(3, 2.0)
        assert not pool.leaves_room(4, 2.0)
        assert not pool.leaves_room(1, 8.0)
        pool.close()
        assert pool.leaves_room(1, 8.0)
