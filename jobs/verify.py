"""Judge the stored rollouts again, drawing none: python jobs/verify.py CONFIG [key=value …]"""

import sys

from reasonray.cli import job
from reasonray.run import Run


def work(run: Run) -> None:
    """Verify every committed rollout with the checkers as they are now."""
    from reasonray.stages.verify import verify

    verify(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
