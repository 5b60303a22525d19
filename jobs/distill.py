"""The whole run, a verb a line: python jobs/distill.py CONFIG [key=value …]

Every stage resumes where it stopped, and one that is done is not done again.
"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Problems → sample → curate → train → evaluate → report."""
    from reasonray.sampling.pool import Fleet
    from reasonray.stages.curate import curate
    from reasonray.stages.evaluate import arms_before_training, evaluate
    from reasonray.stages.label import label
    from reasonray.stages.report import report
    from reasonray.stages.sample import sample
    from reasonray.stages.train import train
    from reasonray.stages.verify import verify

    with Fleet(run) as fleet:
        sample(run, fleet)
        if run.config.checking.cascades:
            verify(run, fleet, again=False)
        evaluate(run, fleet, arms_before_training(run))
        if run.config.training.gpus:
            fleet.close()  # training wants the GPUs; on CPU an idle engine costs nothing and saves a minute's start
        curate(run)
        label(run, fleet)
        train(run)
        evaluate(run, fleet)
    report(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
