"""The Ray cluster that a job runs on: how to connect to it, describe it and run tasks on it."""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import ray
import ray.data

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def connected() -> Iterator[None]:
    """Connect to the cluster that the environment names or that runs on this machine; if there is none, start one.

    Logs of workers stay in Ray's session directory; their failures reach the driver as exceptions. Unless the process
    has a handler of its own, SIGTERM, by which `ray job stop` and schedulers of machines end it, does what Ctrl-C does.
    """
    if ray.is_initialized():
        yield
        return
    # For a cluster that is started here: when an actor is killed, Ray kills its engine's processes, too.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")
    handles_sigterm = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    if not handles_sigterm and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # Ray's own prints a trace of its C++
    try:
        yield
    finally:
        ray.shutdown()


def job_id() -> str:
    """Return the id under which this process was submitted as a Ray job, "" if it was not."""
    config = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return str(config.get("metadata", {}).get("job_submission_id", ""))


def machines() -> list[str]:
    """Return a description of the nodes, with the number of nodes of each shape, and of the driver's processor."""
    shapes = Counter(_shape(node["Resources"]) for node in ray.nodes() if node["Alive"])
    driver = next((line for line in _processor() if line.startswith("model name")), "").partition(":")[2].strip()
    nodes = [f"{count} × {shape}" for shape, count in shapes.most_common()]
    return [*nodes, f"driver on {driver or platform.machine()}"]


def _shape(resources: Mapping[str, float]) -> str:
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    gpus = f", {resources['GPU']:g} GPUs {' '.join(kinds)}".rstrip() if resources.get("GPU") else ""
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('memory', 0) / 2**30:.0f} GiB for Ray{gpus}"


def _processor() -> list[str]:
    source = Path("/proc/cpuinfo")
    return source.read_text().splitlines() if source.exists() else []


def quiet_ray_data() -> None:
    """Keep Ray Data's progress bars and logs off the terminal, because the stages print their own progress."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns that its bars are off
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def in_tasks(function: Callable[[T], R], batches: Sequence[T]) -> list[R]:
    """Return the function's result for every batch, in order; several batches run as Ray tasks if Ray is up."""
    if len(batches) < 2 or not ray.is_initialized():
        return [function(batch) for batch in batches]
    task: Any = ray.remote(num_cpus=1)(function)
    return list(ray.get([task.remote(batch) for batch in batches]))
