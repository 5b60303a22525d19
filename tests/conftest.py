import os
import signal
from collections.abc import Iterator

import pytest

signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it, as do its children
os.environ["SERVER_KEY"] = "right"  # of the endpoint tests' server; Ray's workers must have it from the start
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    import ray

    # More logical CPUs than cores: the tests wait far more than they compute.
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=400 << 20,
    )
    yield
    ray.shutdown()
