"""Annotate, filter and select the rollouts, write the data set: python jobs/curate.py CONFIG [key=value …]"""

import sys

from reasonray.cli import job
from reasonray.run import Run


def work(run: Run) -> None:
    """Curate the rollouts that are there."""
    from reasonray.stages.curate import curate

    curate(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
