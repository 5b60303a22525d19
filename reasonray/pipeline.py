"""The stages of a run in order, and what surrounds them: the checks before a start, the lock on the run, and Ray.

Stages are imported when they are called, so that importing this module loads neither Ray nor torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from reasonray.checkers import find_checker
from reasonray.checkers.own import is_own
from reasonray.config import Config, PromptedModel, RecordedEngine
from reasonray.curation.rules import check_names
from reasonray.engines import check_sampling
from reasonray.errors import UserError
from reasonray.problems.files import matching
from reasonray.records import Score
from reasonray.store.lease import exclusive
from reasonray.store.progress import log_line
from reasonray.store.run import Run, begin_or_resume, stored_config
from reasonray.store.series import Series
from reasonray.store.siblings import refuse_missing_students

if TYPE_CHECKING:
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.sampling.sampler import SamplingResult
    from reasonray.stages.curate import Curated
    from reasonray.stages.report import Report
    from reasonray.training.trained_student import TrainedStudent


@contextmanager
def open_run(config: Config, *, take_over: bool = False) -> Iterator[Run]:
    """Check a configuration, open its run or begin it, hold it against other drivers, and join a Ray cluster.

    The cluster is the one that the environment names ($RAY_ADDRESS) or that runs on this machine; where there is none,
    a local one is started and stopped at the end of the block.

    Args:
        config: of the run.
        take_over: whether to end the lease of another driver that works on the run.

    Raises:
        UserError: the configuration names what does not exist, the run was begun with another configuration, or another
            driver works on it.
    """
    from reasonray.sampling.cluster import connected, job_id, machines

    check_before_start(config)
    run = begin_or_resume(config)
    with exclusive(run, job=job_id(), take_over=take_over), connected():
        run.events.emit("cluster", machines=machines())
        yield run


def distill(config: Config, *, take_over: bool = False) -> Report:
    """Run all stages in order: problems → sample → verify → curate → train → evaluate → report.

    Every stage resumes where it stopped, and one that is done is not done again. Verification runs only where the
    configuration asks for more than the rules (a judge, majorities). With [rounds] it runs all of them, and returns the
    last one's report.
    """
    from reasonray.sampling.pool import ReplicaPool

    if config.rounds:
        return distill_rounds(config, take_over=take_over)
    with open_run(config, take_over=take_over) as run, ReplicaPool(run) as pool:
        return _all_stages(run, pool)


def _all_stages(run: Run, pool: ReplicaPool) -> Report:
    from reasonray.sampling.work import EngineSpec
    from reasonray.stages.evaluate import arms_before_training

    sample(run, pool)
    if run.config.checking.cascades:
        verify(run, pool, again=False)
    evaluate(run, pool, arms_before_training(run))
    training = run.config.training
    pool.keep([EngineSpec.of(run, run.config.student)])
    # An idle engine saves a minute's start, as long as training does not need what it holds.
    if training.gpus or not pool.leaves_room(training.process_bounds[0], training.cpus):
        pool.close()
    curate(run, pool)
    train(run)
    evaluate(run, pool)
    return report(run)


def distill_rounds(config: Config, *, take_over: bool = False) -> Report:
    """Run the rounds of a configuration, each as a run of its own, and write the report by round after each.

    A round that is done is not done again, so the same command goes on in the round where it was. Replicas stay up from
    one round to the next.

    Raises:
        UserError: there are no rounds, a round does not stand on the one before it any more, or see `open_run`.
    """
    from reasonray.sampling.cluster import connected
    from reasonray.sampling.pool import ReplicaPool
    from reasonray.stages.evaluate import adopt
    from reasonray.stages.rounds import conclude_round, record_round, refuse_broken
    from reasonray.stages.sample import load_problems

    series = Series.of(config)
    check_before_start(series.round_config(1))
    for number in range(2, series.rounds.count + 1):
        refuse_unknown_names(series.round_config(number))
    refuse_broken(series)
    with connected(), ExitStack() as stack:
        pool: ReplicaPool | None = None
        for number in range(1, series.rounds.count + 1):
            log_line("round", f"{number:>7} of {series.rounds.count}   run {series.name(number)}")
            with open_run(series.round_config(number), take_over=take_over) as run:
                pool = pool or stack.enter_context(ReplicaPool(run))
                record_round(series, number, run)
                load_problems(run)
                adopt(run, series.runs()[: number - 1])
                newest = _all_stages(run, pool)
            if reason := conclude_round(series, number):
                log_line("round", f"no further round: {reason}")
                break
    return newest


def sample(run: Run, pool: ReplicaPool | None = None) -> SamplingResult:
    """Sample what the teachers' policy still wants of the train problems, as far as the budget goes.

    Args:
        run: an open run; its problems are loaded at the first call.
        pool: replicas to use; without one, replicas are started for this call alone. So in `verify`, `curate` and
            `evaluate`.
    """
    from reasonray.stages.sample import sample

    return sample(run, pool)


def verify(run: Run, pool: ReplicaPool | None = None, *, again: bool = True) -> dict[str, Any]:
    """Judge the stored rollouts again with the checkers as they are now, and return what the manifest records.

    Args:
        run: an open run.
        pool: where the judge's replicas come from, if [checking.judge] names one.
        again: do so even if the same rollouts were verified under the same configuration before.
    """
    from reasonray.stages.verify import verify

    return verify(run, pool, again=again)


def curate(run: Run, pool: ReplicaPool | None = None) -> Curated:
    """Annotate, filter and select the rollouts, and write the data set.

    Where models are configured for it, one looks for paraphrases of held-out problems first, and one labels a sample of
    the rollouts last.
    """
    from reasonray.stages.curate import curate
    from reasonray.stages.label import label
    from reasonray.stages.paraphrases import find_paraphrases

    find_paraphrases(run, pool)
    curated = curate(run)
    label(run, pool)
    return curated


def train(run: Run) -> TrainedStudent:
    """Fine-tune the student on the curated rollouts."""
    from reasonray.stages.train import train

    return train(run)


def evaluate(run: Run, pool: ReplicaPool | None = None, arms: Collection[str] | None = None) -> dict[str, Score]:
    """Measure models on the test problems, and return their scores on all of them.

    Args:
        run: an open run.
        pool: replicas to use.
        arms: names of models under evaluation; None for every one whose weights exist: base, teachers, checkpoints,
            student and [[evaluation.arms]].
    """
    from reasonray.stages.evaluate import evaluate
    from reasonray.stages.sample import load_problems

    load_problems(run)
    return evaluate(run, pool, arms)


def report(run: Run) -> Report:
    """Write metrics.json, report.md and report.html of what the run holds so far."""
    from reasonray.stages.report import report

    return report(run)


def report_by_round(config: Config) -> str:
    """Write rounds.json, rounds.md and rounds.html of the rounds that have begun, and return the headline."""
    from reasonray.stages.rounds import report_rounds

    return report_rounds(Series.of(config))


def compare(runs: Sequence[str], out: str = "comparison") -> None:
    """Write comparison.html, .md and .json of several runs that have been reported.

    Args:
        runs: directories or URIs.
        out: directory or URI to write to.
    """
    from reasonray.stages.compare import compare

    compare(runs, out)


def check_before_start(config: Config) -> None:
    """Check what can be known to fail before a run begins or goes on.

    A run that began with too little room for its rollouts goes on; training reports what it leaves out.

    Raises:
        UserError: see the functions below.
    """
    refuse_unknown_names(config)
    refuse_missing_files(config)
    begun_with = stored_config(config)
    if begun_with is None or begun_with.trains_on_longest:
        refuse_untrainable_rollouts(config)


def refuse_unknown_names(config: Config) -> None:
    """Check the names that a configuration gives to rules, functions and checkers.

    Raises:
        UserError: there is nothing of that name.
    """
    check_names(config.curation)
    for model in models_of(config):
        check_sampling(model.engine, model.sampling)
    replaced = [name for name in config.checking.instead if not is_own(name)]
    for name in (*replaced, *config.checking.instead.values()):
        try:
            find_checker(name)
        except UserError as error:
            raise UserError(f"checking.instead: {error}") from None


def models_of(config: Config) -> list[PromptedModel]:
    """Return all models of a configuration: teachers, student, further arms, judges and labeller."""
    curation = config.curation
    helpers = [model for model in (config.checking.judge, curation.paraphrase_judge, curation.labeller) if model]
    return [*config.teachers, config.student, *config.evaluation.arms, *helpers]


def refuse_untrainable_rollouts(config: Config) -> None:
    """Check that training has room for the longest rollouts that curation keeps.

    Raises:
        UserError: training.max_tokens is too small.
    """
    longest, room = config.longest_kept_rollout, config.training.max_tokens
    if not config.trains_on_longest:
        raise UserError(
            f"training.max_tokens = {room} would leave out the longest rollouts, because teachers write and curation "
            f"keeps up to {longest} tokens: raise training.max_tokens above that (prompt included), leave it out, or "
            "lower curation.max_tokens"
        )


def refuse_missing_files(config: Config) -> None:
    """Check that the files of benchmarks and recordings exist, on the machine where they will be read, and students.

    Raises:
        UserError: a file is missing, or a run whose student the configuration names.
    """
    refuse_missing_students(config)
    for pattern in config.curation.benchmarks:
        matching(pattern, "curation.benchmarks")
    for model in (*config.teachers, *config.evaluation.arms):
        if isinstance(model.engine, RecordedEngine) and model.engine.files:
            matching(model.engine.files, f"of recordings {model.name}")
