"""Write metrics.json, report.md and report.html:  python jobs/report.py CONFIG [key=value …]
The same of a run that is there already:         python jobs/report.py RUN
Lay runs side by side that were reported before: python jobs/report.py RUN_A RUN_B … [out=DIRECTORY]

The last writes comparison.html, .md and .json below DIRECTORY (default: comparison).
"""

import sys

from reasonray.cli.main import guarded, job
from reasonray.config import UserError
from reasonray.store.run import Run


def work(run: Run) -> None:
    """Report what the run holds so far."""
    from reasonray.stages.report import report

    report(run)


def of_runs(arguments: list[str]) -> int:
    """Report the one run at a path, or compare several; needs no cluster."""
    from reasonray.stages.compare import compare
    from reasonray.store.run import find_run

    paths = [it for it in arguments if not it.startswith("out=")]
    outs = [it.removeprefix("out=") for it in arguments if it.startswith("out=")]
    if outs and len(paths) < 2:
        raise UserError("out= says where a comparison goes; name the runs to compare, two or more")
    if len(paths) == 1:
        work(find_run(paths[0]))
    else:
        compare(paths, outs[-1] if outs else "comparison")
    return 0


if __name__ == "__main__":
    given = sys.argv[1:]
    has_config = not given or given[0].endswith(".toml") or given[0].startswith("-")
    sys.exit(job(work, str(__doc__)) if has_config else guarded(lambda: of_runs(given)))
