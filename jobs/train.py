"""Fine-tune the student on the curated samples: python jobs/train.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Train the student."""
    from reasonray.stages.train import train

    train(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
