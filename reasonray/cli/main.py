"""The command line: `reasonray distill CONFIG`, a command for every stage, and commands that look at a run.

A user's mistake is one line and exit status 2. Ctrl-C is exit status 130: finished work is kept, and the same command
resumes. Heavy modules are imported by the command that needs them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from reasonray.config import Config, load_config
from reasonray.errors import UserError
from reasonray.records import BEHAVIOURS, Outcome

if TYPE_CHECKING:
    from reasonray.store.run import Run

_USER_MISTAKE, _INTERRUPTED = 2, 130

Options = argparse.Namespace


@dataclass(frozen=True)
class Command:
    """A command: what `reasonray --help` says about it, its arguments, and what it does."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    work: Callable[[Options], int | None]
    """Returns an exit status, or None for success."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `reasonray` command; return its exit status."""
    parser = argparse.ArgumentParser(prog="reasonray", description="Distil reasoning by rejection sampling, on Ray.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        command.add_arguments(parsers.add_parser(name, help=command.help, description=command.help))
    options, rest = parser.parse_known_args(arguments)
    overrides = [text for text in rest if "overrides" in options and "=" in text and not text.startswith("-")]
    if rest != overrides:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if overrides:  # argparse does not accept positional arguments that follow an option
        options.overrides = [*options.overrides, *overrides]
    return exit_status(lambda: COMMANDS[options.command].work(options))


def exit_status(work: Callable[[], int | None]) -> int:
    """Return the exit status of some work: UserError prints one line (2), Ctrl-C prints how to resume (130)."""
    try:
        return work() or 0
    except UserError as error:
        cause = getattr(error, "cause", error)  # Ray re-raises a task's error with the traceback in its text
        print(f"error: {cause}", file=sys.stderr)
        return _USER_MISTAKE
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; the same command goes on from there", file=sys.stderr)
        return _INTERRUPTED


def _config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", help="TOML file; examples are in jobs/configs/")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="override of one key, such as policy.samples=8"
    )
    _take_over_argument(parser)


def _take_over_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--take-over", action="store_true", help="end the work of another driver on the same run")


def _run_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="directory or URI of the run")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG | RUN", help="TOML file, or the directory or URI of a run")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value | RUN", help="overrides; or further runs, to compare"
    )
    _take_over_argument(parser)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="directories or URIs of runs that have been reported")
    parser.add_argument("--out", default="comparison", help="directory or URI to write to (default: comparison)")


def _submit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", help="of the cluster's dashboard; default $RAY_API_SERVER_ADDRESS, else this machine"
    )
    parser.add_argument("--working-dir", default=".", help="sent to the cluster (default: this directory)")
    parser.add_argument("--no-wait", action="store_true", help="return as soon as the job is accepted")
    parser.add_argument("job", help="job script, such as jobs/distill.py")
    _config_arguments(parser)


def _push_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser)
    parser.add_argument("repository", metavar="owner/name", help="on the hub; created if it does not exist")
    parser.add_argument("--student", action="store_true", help="the trained model instead of the data set")
    parser.add_argument("--public", action="store_true", help="create the repository for everybody to read")


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser)
    parser.add_argument("--arm", help="a model under evaluation instead of the teachers' rollouts")
    parser.add_argument("--problem", metavar="ID", help="one problem's samples side by side; ID may be shortened")
    parser.add_argument("--outcome", choices=[str(outcome) for outcome in Outcome], help="only these")
    parser.add_argument("--rule", help="only what this rule dropped; `selected`: only what curation kept")
    parser.add_argument("--difficulty", help="only these")
    parser.add_argument("--behaviour", choices=BEHAVIOURS, help="only rollouts that show it")
    parser.add_argument("--teacher", help="only rollouts of this teacher")
    parser.add_argument("--text", help="only where question or completion contains it, in any case")
    parser.add_argument(
        "--disagreements",
        action="store_true",
        help="the answers on which rules, judge and majority differ",
    )
    parser.add_argument("--limit", "--count", type=int, metavar="N", help="how many (default 10; all of one problem)")
    parser.add_argument("--page", action="store_true", help="through a pager, if this is a terminal")


def _view_arguments(parser: argparse.ArgumentParser) -> None:
    _run_argument(parser)
    parser.add_argument("--port", type=int, default=0, help="of this machine (default: any that is free)")


def _import_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("origin", metavar="FILES | owner/name", help="path, glob or URI of files, or a hub data set")
    parser.add_argument("config", metavar="CONFIG", nargs="?", help="TOML file whose problems they are to match")
    parser.add_argument("--split", default="train", help="of a hub data set (default: train)")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="PART=NAME",
        help="column of the question, id, completion, reasoning, finish or tokens, if it is not found by itself",
    )


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Take nothing."""


def _configuration(options: Options) -> Config:
    """Return a command's configuration; the rules and functions that it names can be in the working directory."""
    from reasonray.cli.preflight import importing_from_here

    importing_from_here()
    return load_config(options.config, options.overrides)


def _distill(options: Options) -> None:
    from reasonray.pipeline import distill

    distill(_configuration(options), take_over=options.take_over)


def _rounds(options: Options) -> None:
    from reasonray.pipeline import distill_rounds

    distill_rounds(_configuration(options), take_over=options.take_over)


def _on_run(work: Callable[[Run], object]) -> Callable[[Options], None]:
    """Return a command that works on the run of a configuration."""

    def command(options: Options) -> None:
        from reasonray.pipeline import open_run

        with open_run(_configuration(options), take_over=options.take_over) as run:
            work(run)

    return command


def _sample(run: Run) -> None:
    from reasonray.pipeline import sample

    sample(run)


def _verify(run: Run) -> None:
    from reasonray.pipeline import report, verify

    verify(run)
    report(run)


def _curate(run: Run) -> None:
    from reasonray.pipeline import curate

    curate(run)


def _train(run: Run) -> None:
    from reasonray.pipeline import train

    train(run)


def _evaluate(run: Run) -> None:
    from reasonray.pipeline import evaluate, report

    evaluate(run)
    report(run)


def _report(options: Options) -> None:
    """Report the run, or the rounds, of a configuration, or the run of a directory; of several, compare them."""
    from reasonray.pipeline import compare, report, report_by_round
    from reasonray.store.run import find_run

    if options.config.endswith(".toml"):
        if (config := _configuration(options)).rounds:
            report_by_round(config)
        else:
            _on_run(report)(options)
        return
    arguments = [options.config, *options.overrides]
    runs = [text for text in arguments if not text.startswith("out=")]
    outs = [text.removeprefix("out=") for text in arguments if text.startswith("out=")]
    if outs and len(runs) < 2:
        raise UserError("out= says where a comparison goes; name the runs to compare, two or more")
    if len(runs) == 1:
        report(find_run(runs[0]))
    else:
        compare(runs, outs[-1] if outs else "comparison")


def _compare(options: Options) -> None:
    from reasonray.pipeline import compare

    if len(options.runs) < 2:
        raise UserError("name the runs to compare, two or more")
    compare(options.runs, options.out)


def _submit(options: Options) -> int:
    from reasonray.cli.submit import submit_job

    return submit_job(
        options.job,
        options.config,
        options.overrides,
        address=options.address,
        working_directory=Path(options.working_dir).resolve(),
        wait=not options.no_wait,
        take_over=options.take_over,
    )


def _plan(options: Options) -> None:
    from reasonray.cli.plan import forecast
    from reasonray.pipeline import refuse_missing_files, refuse_unknown_names, refuse_untrainable_rollouts

    config = _configuration(options)
    refuse_unknown_names(config)
    refuse_missing_files(config)
    refuse_untrainable_rollouts(config)
    print(forecast(config))


def _config(_: Options) -> None:
    from reasonray.cli.config import describe_config

    print(describe_config())


def _status(options: Options) -> None:
    from reasonray.cli.status import describe
    from reasonray.store.run import find_run

    print(describe(find_run(options.run)))


def _show(options: Options) -> None:
    from reasonray.cli.show import Query, show, terminal
    from reasonray.store.run import find_run

    query = Query(**{field.name: getattr(options, field.name) for field in fields(Query)})
    if options.disagreements:
        from reasonray.cli.disagreements import show_disagreements

        show_disagreements(find_run(options.run), query, terminal(), limit=options.limit)
        return
    show(find_run(options.run), query, terminal(), limit=options.limit, page=options.page)


def _view(options: Options) -> None:
    from reasonray.cli.view import view

    view(options.run, options.port)


def _import(options: Options) -> None:
    from reasonray.cli.recordings import look

    if wrong := [text for text in options.column if "=" not in text]:
        raise UserError(f"--column {wrong[0]}: write PART=NAME, such as question=problem")
    columns = dict(text.split("=", 1) for text in options.column)
    config = load_config(options.config) if options.config else None
    print(look(options.origin, config, split=options.split, columns=columns))


def _inspect(options: Options) -> None:
    from reasonray.cli.inspect import write_inspect_logs
    from reasonray.store.run import find_run

    print(write_inspect_logs(find_run(options.run)))


def _push(options: Options) -> None:
    from reasonray.cli.push import push
    from reasonray.store.run import find_run

    print(push(find_run(options.run), options.repository, student=options.student, public=options.public))


COMMANDS = {
    "distill": Command("run all stages in order; each one resumes", _config_arguments, _distill),
    "rounds": Command("run all stages again and again, as [rounds] asks", _config_arguments, _rounds),
    "sample": Command("sample solutions from the teachers and judge them", _config_arguments, _on_run(_sample)),
    "verify": Command("judge the stored rollouts again, and report", _config_arguments, _on_run(_verify)),
    "curate": Command("filter and select rollouts, and write the data set", _config_arguments, _on_run(_curate)),
    "train": Command("fine-tune the student on the data set", _config_arguments, _on_run(_train)),
    "evaluate": Command("measure models on the test problems, and report", _config_arguments, _on_run(_evaluate)),
    "report": Command("write metrics.json, report.md and report.html", _report_arguments, _report),
    "compare": Command("write a comparison of several runs", _compare_arguments, _compare),
    "submit": Command("run a job on a Ray cluster, follow its log, return its status", _submit_arguments, _submit),
    "plan": Command("check a configuration and forecast its cost, starting nothing", _config_arguments, _plan),
    "import": Command("look at recorded completions: what they match, what to paste", _import_arguments, _import),
    "config": Command("print every knob: default, type, whether it may change", _no_arguments, _config),
    "status": Command("print what a run holds so far", _run_argument, _status),
    "view": Command("serve a run's report to this machine, renewed while the run goes on", _view_arguments, _view),
    "show": Command("print rollouts, or one problem's samples side by side", _show_arguments, _show),
    "inspect": Command("write a run's evaluation as logs of inspect_ai", _run_argument, _inspect),
    "push": Command("upload a data set, or a student, to the Hugging Face hub", _push_arguments, _push),
}


if __name__ == "__main__":
    sys.exit(main())
