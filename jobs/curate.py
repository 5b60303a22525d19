"""Annotate, filter and select the rollouts, write the data set: python jobs/curate.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Curate the rollouts that are there, and label a sample of them where the configuration asks for it."""
    from reasonray.stages.curate import curate
    from reasonray.stages.label import label

    curate(run)
    label(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
