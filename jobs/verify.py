"""Judge the stored rollouts again, drawing none: python jobs/verify.py CONFIG [key=value …]

With [checking.judge] a language model is asked where the rules cannot decide or disagree; checking.instead names
another checker: `checking.instead={math_answer="numeric"}`.
"""

import sys

from reasonray.cli.main import job
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Verify every committed rollout with the checkers as they are now."""
    from reasonray.stages.report import report
    from reasonray.stages.verify import verify

    verify(run)
    report(run)


if __name__ == "__main__":
    sys.exit(job(work, str(__doc__)))
