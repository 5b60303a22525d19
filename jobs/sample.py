"""Draw what the teachers owe the train problems: python jobs/sample.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Sample with a fleet of the job's own."""
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.sample import sample

    with ReplicaPool(run) as pool:
        sample(run, pool)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
