"""The whole run, a verb a line: python jobs/distill.py CONFIG [key=value …]

Every stage resumes where it stopped, and one that is done is not done again.
"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Problems → sample → curate → train → evaluate → report."""
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.curate import curate
    from reasonray.stages.evaluate import arms_before_training, evaluate
    from reasonray.stages.label import label
    from reasonray.stages.report import report
    from reasonray.stages.sample import sample
    from reasonray.stages.train import train
    from reasonray.stages.verify import verify

    with ReplicaPool(run) as pool:
        sample(run, pool)
        if run.config.checking.cascades:
            verify(run, pool, again=False)
        evaluate(run, pool, arms_before_training(run))
        if run.config.training.gpus:
            pool.close()  # training wants the GPUs; on CPU an idle engine costs nothing and saves a minute's start
        curate(run)
        label(run, pool)
        train(run)
        evaluate(run, pool)
    report(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
