"""The project's commands as a user runs them: each in a process of its own, from the repository's root."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SMOKE = "jobs/configs/smoke.toml"
ENVIRONMENT = os.environ | {"RAY_AUTH_MODE": "disabled", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run_python(*arguments: str, timeout: float = 400, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run the interpreter of the tests; a failure is the caller's to check."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout
    )


def run_job(job: str, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    """Run a script of jobs/."""
    return run_python(f"jobs/{job}.py", *arguments, timeout=timeout)
