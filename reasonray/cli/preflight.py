"""Checks of a command's paths before anything starts: imports from here, and files as a cluster will find them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from reasonray.errors import UserError


def importing_from_here(directory: Path | None = None) -> None:
    """Let rules and functions of the user be imported from the working directory, as Ray lets a job on a cluster."""
    text = str(directory or Path.cwd())
    if text not in sys.path:
        sys.path.append(text)


def path_in_job(file: str, working_directory: Path) -> str:
    """Return a file's path as a job finds it, in the copy of the working directory that the cluster gets.

    Raises:
        UserError: the file is not below the working directory.
    """
    path = (working_directory / file).resolve()
    if not path.is_file() or not path.is_relative_to(working_directory):
        raise UserError(f"{file} is not below {working_directory}, which is what the cluster gets (--working-dir)")
    return str(path.relative_to(working_directory))


def root_in_job(root: str, address: str | None) -> str:
    """Return the absolute root of a job's run: the job's own working directory is a copy that is deleted with the job.

    Raises:
        UserError: the root is relative, and the cluster is not this machine.
    """
    if "://" in root or Path(root).is_absolute():
        return root
    host = urlsplit(address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1").hostname
    if host not in {"127.0.0.1", "localhost", "::1"}:
        raise UserError(
            f"root = {root!r} is relative; on a cluster name a place that all nodes can write to: root=s3://… or a path"
        )
    return str(Path(root).absolute())
