"""Measure models on the test problems, and report: python jobs/evaluate.py CONFIG [key=value …]

The arms are base, teachers, checkpoints, student and [[evaluation.arms]], as far as their models are there. A
configuration without teachers measures models alone.
"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Evaluate every arm whose model is there, with a fleet of the job's own."""
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.evaluate import evaluate
    from reasonray.stages.report import report
    from reasonray.stages.sample import load_problems

    load_problems(run)
    with ReplicaPool(run) as pool:
        evaluate(run, pool)
    report(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
