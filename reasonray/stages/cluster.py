"""The Ray cluster that a job works on: joining it, and sending a job to one."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.data
from ray.exceptions import AuthenticationError

from reasonray.config import UserError
from reasonray.console import say

_AGENT_SECONDS = 60.0
"""How long a fresh cluster may take until it takes jobs."""


@contextmanager
def connected() -> Iterator[None]:
    """Join the cluster that the environment names or that runs on this machine; start a local one where there is none.

    Workers' logs stay in Ray's session directory; faults reach the driver as exceptions.
    """
    if ray.is_initialized():
        yield
        return
    # Of a cluster that is started here: when an actor is killed, the processes of its engine go with it.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")
    ray.init(log_to_driver=False, logging_level="warning", include_dashboard=False)
    try:
        yield
    finally:
        ray.shutdown()


def machines() -> list[str]:
    """Return what the cluster is made of: like nodes once, with their number; and the driver's processor."""
    shapes = Counter(_shape(node["Resources"]) for node in ray.nodes() if node["Alive"])
    driver = next((line for line in _processor() if line.startswith("model name")), "").partition(":")[2].strip()
    found = [f"{count} × {shape}" for shape, count in shapes.most_common()]
    return [*found, f"driver on {driver or platform.machine()}"]


def _shape(resources: Mapping[str, float]) -> str:
    kinds = [name.partition(":")[2] for name in resources if name.startswith("accelerator_type:")]
    gpus = f", {resources['GPU']:g} GPUs {' '.join(kinds)}".rstrip() if resources.get("GPU") else ""
    return f"{resources.get('CPU', 0):g} CPUs, {resources.get('memory', 0) / 2**30:.0f} GiB for Ray{gpus}"


def _processor() -> list[str]:
    source = Path("/proc/cpuinfo")
    return source.read_text().splitlines() if source.exists() else []


def submit(entrypoint: str, name: str, address: str | None, working_directory: str, *, wait: bool) -> int:
    """Submit a job, print its log as it comes, and return its exit status.

    Raises:
        UserError: no cluster answers, or it wants a token.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # what it packs and ignores is of no interest
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = error.message.partition(". ")[0]
        raise UserError(f"the cluster asks for its token: {reason}; copy it here from the cluster") from error
    except (OSError, ValueError, RuntimeError) as error:  # Ray's own, of an address that it cannot make sense of
        where = address or "the default address (http://127.0.0.1:8265)"
        reason = str(error).partition("\n")[0].rstrip(".")
        raise UserError(
            f"no Ray cluster answers at {where} ({reason}); start one (`ray start --head`) or give --address http://…"
        ) from error
    identifier = f"reasonray-{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    request = {
        "entrypoint": entrypoint,
        "submission_id": identifier,
        "runtime_env": {"working_dir": working_directory, "excludes": ["runs/", ".venv/", ".git/"]},
        "metadata": {"run": name},
    }
    _submit_once_agents_are_up(client, request)
    say("submit", f"job {identifier}")
    if not wait:
        return 0
    try:
        asyncio.run(_follow(client, identifier))
    except KeyboardInterrupt:
        client.stop_job(identifier)
        raise
    status = client.get_job_status(identifier)
    if status is JobStatus.SUCCEEDED:
        return 0
    code = client.get_job_info(identifier).driver_exit_code
    return code if code else 1


def _submit_once_agents_are_up(client: Any, request: dict[str, Any]) -> None:
    """Submit; a cluster that has just been started answers some seconds before it takes jobs."""
    deadline = time.monotonic() + _AGENT_SECONDS
    while True:
        try:
            client.submit_job(**request)
            return
        except RuntimeError as error:
            if "No available agent" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise UserError(
                    f"the cluster answers, but takes no job: {str(error).splitlines()[0]} "
                    "(is its dashboard agent running? a second Ray on the machine may hold its port, 52365)"
                ) from error
            time.sleep(1)


async def _follow(client: object, identifier: str) -> None:
    async for text in client.tail_job_logs(identifier):  # type: ignore[attr-defined]
        print(text, end="", flush=True)


def quiet_ray_data() -> None:
    """Keep Ray Data's own bars and logs off the terminal; the stages say what they are at."""
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
