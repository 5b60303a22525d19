"""Sending a job to a Ray cluster, and following its log."""

from __future__ import annotations

import asyncio
import logging
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError

from reasonray.cli.preflight import importing_from_here, path_in_job, root_in_job
from reasonray.config import load_config
from reasonray.errors import UserError
from reasonray.pipeline import refuse_unknown_names
from reasonray.store.progress import log_line

STAGE_COMMANDS = ("distill", "sample", "verify", "curate", "train", "evaluate", "report")
_AGENT_SECONDS = 60.0
"""How long a cluster that has just started may take until it accepts jobs."""


def submit_job(
    job: str,
    config_file: str,
    overrides: Sequence[str],
    *,
    address: str | None,
    working_directory: Path,
    wait: bool,
    take_over: bool = False,
) -> int:
    """Check a configuration, submit a job that works on it, print the job's log, and return its exit status.

    Args:
        job: a script below the working directory, such as jobs/distill.py; or a command of reasonray, such as distill,
            where the cluster has the package installed.
        config_file: TOML file below the working directory.
        overrides: `key=value` each.
        address: of the cluster's dashboard.
        working_directory: sent to the cluster.
        wait: follow the job to its end; else return as soon as it is accepted.
        take_over: whether the job ends the work of another driver on the same run.

    Raises:
        UserError: the configuration is wrong, no cluster answers, or it asks for a token.
    """
    shipped = path_in_job(config_file, working_directory)
    is_command = job in STAGE_COMMANDS and not (working_directory / job).is_file()
    command = ["-m", "reasonray.cli.main", job] if is_command else [path_in_job(job, working_directory)]
    config = load_config(working_directory / shipped, overrides)
    importing_from_here(working_directory)
    refuse_unknown_names(config)
    root = root_in_job(config.root, address)
    options = ["--take-over"] if take_over else []
    entrypoint = shlex.join(["python", *command, shipped, *overrides, f"root={root}", *options])
    return _submit(entrypoint, config.name, address, str(working_directory), wait=wait)


def _submit(entrypoint: str, name: str, address: str | None, working_directory: str, *, wait: bool) -> int:
    from ray.job_submission import JobStatus, JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.ERROR)  # its lines on packing and ignored files are of no interest
    try:
        client = JobSubmissionClient(address)
    except AuthenticationError as error:
        reason = error.message.partition(". ")[0]
        raise UserError(f"the cluster asks for its token: {reason}; copy it here from the cluster") from error
    except (OSError, ValueError, RuntimeError) as error:  # raised by Ray for an address that it cannot read
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
    log_line("submit", f"job {identifier}")
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
