"""Draw what the teachers owe the train problems: python jobs/sample.py CONFIG [key=value …]"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Sample with a fleet of the job's own."""
    from reasonray.sampling.pool import Fleet
    from reasonray.stages.sample import sample

    with Fleet(run) as fleet:
        sample(run, fleet)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
