"""Write metrics.json and report.html: python jobs/report.py CONFIG [key=value …]"""

import sys

from reasonray.cli import job
from reasonray.run import Run


def work(run: Run) -> None:
    """Report what the run holds so far."""
    from reasonray.stages.report import report

    report(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
