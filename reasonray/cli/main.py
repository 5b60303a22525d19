"""The command line: `reasonray submit | status | plan | show | push`, and what every job script shares.

A job is `python jobs/x.py CONFIG [key=value …]`, run here or under `ray job submit`. A user's mistake ends with one
line and exit status 2; an interruption with 130 and a run that resumes.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from reasonray.config import Config, UserError, load
from reasonray.records import BEHAVIOURS, Outcome

if TYPE_CHECKING:
    from reasonray.store.run import Run

_USER_MISTAKE, _INTERRUPTED = 2, 130


def job(work: Callable[[Run], None], description: str, arguments: Sequence[str] | None = None) -> int:
    """Run one job script: read the configuration, open the run, hold it alone, work; return the exit status."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_config(parser)
    options = parser.parse_args(arguments)
    return guarded(lambda: _work(load(options.config, options.overrides), work))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `reasonray` command; return the exit status."""
    parser = argparse.ArgumentParser(prog="reasonray", description="Distil reasoning by rejection sampling, on Ray.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    submit = commands.add_parser("submit", help="run a job on a Ray cluster, follow its log, return its exit status")
    submit.add_argument(
        "--address", help="of the cluster's dashboard; default $RAY_API_SERVER_ADDRESS, else this machine"
    )
    submit.add_argument("--working-dir", default=".", help="sent to the cluster (default: this directory)")
    submit.add_argument("--no-wait", action="store_true", help="return as soon as the job is accepted")
    submit.add_argument("job", help="job script, such as jobs/distill.py")
    _add_config(submit)
    status = commands.add_parser("status", help="say what a run holds so far")
    status.add_argument("run", help="directory or URI of the run")
    plan = commands.add_parser(
        "plan", help="check a configuration and say how much it would draw at most, without starting anything"
    )
    _add_config(plan)
    push = commands.add_parser("push", help="upload a run's data set, or its student, to the Hugging Face hub")
    push.add_argument("run", help="directory or URI of the run")
    push.add_argument("repository", metavar="owner/name", help="on the hub; made if it is not there")
    push.add_argument("--student", action="store_true", help="the trained model instead of the data set")
    push.add_argument("--public", action="store_true", help="for everybody, where the repository is made")
    _add_show(commands.add_parser("show", help="print rollouts of a run, or one problem's samples side by side"))
    options, more = parser.parse_known_args(arguments)
    overrides = [it for it in more if hasattr(options, "overrides") and "=" in it and not it.startswith("-")]
    if more != overrides:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if overrides:  # argparse does not know them where an option stands before them
        options.overrides = [*options.overrides, *overrides]
    return guarded(lambda: _COMMANDS[options.command](options))


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="TOML file, see jobs/configs/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="override of one key, such as policy.samples=8"
    )


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="directory or URI of the run")
    parser.add_argument("--arm", help="an arm of the evaluation instead of the teachers' rollouts")
    parser.add_argument("--problem", metavar="ID", help="one problem's samples side by side; ID may be cut short")
    parser.add_argument("--outcome", choices=[str(it) for it in Outcome], help="only these")
    parser.add_argument("--rule", help="only what this rule dropped; `selected`: only what curation kept")
    parser.add_argument("--difficulty", help="only these")
    parser.add_argument(
        "--behaviour",
        choices=BEHAVIOURS,
        help="only rollouts that show it",
    )
    parser.add_argument("--teacher", help="only this one's")
    parser.add_argument("--text", help="only where question or completion holds it, in any case")
    parser.add_argument("--limit", "--count", type=int, metavar="N", help="how many (default 10; all of one problem)")
    parser.add_argument("--page", action="store_true", help="through a pager, if this is a terminal")


def guarded(work: Callable[[], int]) -> int:
    """Return the exit status of some work: a user's mistake is one line, an interruption a promise."""
    try:
        return work()
    except UserError as error:
        raised = getattr(error, "cause", error)  # in a Ray task, without the traceback that Ray writes around it
        print(f"error: {raised}", file=sys.stderr)
        return _USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on from there", file=sys.stderr)
        return _INTERRUPTED


def _work(config: Config, work: Callable[[Run], None]) -> int:
    from reasonray.cli.preflight import refuse_missing
    from reasonray.sampling.cluster import connected, machines
    from reasonray.store.lease import exclusive
    from reasonray.store.run import open_run

    _refuse_unusable(config, Path.cwd())
    refuse_missing(config)
    run = open_run(config)
    with exclusive(run), connected():
        run.events.emit("cluster", machines=machines())
        work(run)
    return 0


def _submit(options: argparse.Namespace) -> int:
    from reasonray.cli.submit import submit

    working_directory = Path(options.working_dir).resolve()
    script, toml = (_as_shipped(file, working_directory) for file in (options.job, options.config))
    config = load(working_directory / toml, options.overrides)
    _refuse_unusable(config, working_directory)
    root = _root_for_job(config.root, options.address)
    entrypoint = shlex.join(["python", script, toml, *options.overrides, f"root={root}"])
    return submit(entrypoint, config.name, options.address, str(working_directory), wait=not options.no_wait)


def _as_shipped(file: str, working_directory: Path) -> str:
    """Return a file's path as a job finds it, in the copy of the working directory that the cluster gets."""
    path = (working_directory / file).resolve()
    if not path.is_file() or not path.is_relative_to(working_directory):
        raise UserError(f"{file} is not below {working_directory}, which is what the cluster gets (--working-dir)")
    return str(path.relative_to(working_directory))


def _root_for_job(root: str, address: str | None) -> str:
    """Return where a job is to keep its run: a job's working directory is a copy that goes with the job."""
    if "://" in root or Path(root).is_absolute():
        return root
    host = urlsplit(address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1").hostname
    if host not in {"127.0.0.1", "localhost", "::1"}:
        raise UserError(
            f"root = {root!r} is relative; on a cluster say where all nodes can write: root=s3://… or a path"
        )
    return str(Path(root).absolute())


def _status(options: argparse.Namespace) -> int:
    from reasonray.cli.status import describe
    from reasonray.store.run import find_run

    print(describe(find_run(options.run)))
    return 0


def _plan(options: argparse.Namespace) -> int:
    from reasonray.cli.preflight import refuse_missing
    from reasonray.cli.status import forecast

    config = load(options.config, options.overrides)
    _refuse_unusable(config, Path.cwd())
    refuse_missing(config)
    print(forecast(config))
    return 0


def _refuse_unusable(config: Config, directory: Path) -> None:
    from reasonray.cli.preflight import refuse_unusable

    if str(directory) not in sys.path:  # on a cluster Ray lets a job import from its working directory
        sys.path.append(str(directory))
    refuse_unusable(config)


def _show(options: argparse.Namespace) -> int:
    from reasonray.cli.show import Query, show, terminal
    from reasonray.store.run import find_run

    query = Query(**{field.name: getattr(options, field.name) for field in fields(Query)})
    show(find_run(options.run), query, terminal(), limit=options.limit, page=options.page)
    return 0


def _push(options: argparse.Namespace) -> int:
    from reasonray.cli.push import push
    from reasonray.store.run import find_run

    print(push(find_run(options.run), options.repository, student=options.student, public=options.public))
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "submit": _submit,
    "status": _status,
    "plan": _plan,
    "show": _show,
    "push": _push,
}


if __name__ == "__main__":
    sys.exit(main())
