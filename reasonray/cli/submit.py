"""Sending a job to a Ray cluster, and following its log."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from ray.exceptions import AuthenticationError

from reasonray.errors import UserError
from reasonray.store.progress import log_line

_AGENT_SECONDS = 60.0
"""How long a fresh cluster may take until it takes jobs."""


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
