"""Sampling on Ray with the scripted engine: whatever is killed, every rollout is stored exactly once."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from reasonray.config import Config, UserError, parse
from reasonray.problems import load
from reasonray.records import Finish, Outcome, Rollout, Split
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.sample import sample
from reasonray.store.run import Run, begin_or_resume, find_run
from reasonray.store.schema import table_to_rollouts
from tests.factories import a_scripted_config

pytestmark = pytest.mark.ray


def sampled(config: Config) -> Run:
    run = begin_or_resume(config)
    with ReplicaPool(run) as pool:
        sample(run, pool)
    return run


def read_rollouts(run: Run) -> list[Rollout]:
    return table_to_rollouts(run.ledger.read())


def samples_per_problem(rollouts: Sequence[Rollout]) -> set[int]:
    """Return the numbers of samples that occur; one number if all problems have as many."""
    return set(Counter(rollout.problem.id for rollout in rollouts).values())


def committed_twice(run: Run) -> int:
    import pyarrow.parquet as pq

    ids = [id for segment in run.ledger.segments() for id in pq.read_table(segment.path)["id"].to_pylist()]
    return len(ids) - len(set(ids))


def test_every_problem_gets_k_samples_each_with_its_own_seed_and_verdict(ray_cluster: None, tmp_path: Path) -> None:
    run = sampled(a_scripted_config(tmp_path, train=40, samples=6))
    rollouts = read_rollouts(run)
    assert samples_per_problem(rollouts) == {6}
    assert len(rollouts) == 240
    assert committed_twice(run) == 0
    assert len({rollout.seed for rollout in rollouts}) == 240
    outcomes = Counter(rollout.verdict.outcome for rollout in rollouts)
    assert {Outcome.CORRECT, Outcome.WRONG, Outcome.TRUNCATED, Outcome.NO_ANSWER} <= outcomes.keys()
    assert all(rollout.verdict.outcome is Outcome.TRUNCATED for rollout in rollouts if rollout.finish is Finish.LENGTH)


def test_sampling_without_a_pool_starts_replicas_and_returns_what_it_added(ray_cluster: None, tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path, train=12, samples=2))
    result = sample(run)
    assert (result.total.rollouts, result.exhausted, result.counts_by_job.keys()) == (24, "", {"teacher"})
    assert result.total.correct == sum(rollout.verdict.outcome is Outcome.CORRECT for rollout in read_rollouts(run))
    assert sample(run).total.rollouts == 0


def test_a_finished_run_samples_nothing_more(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=12, samples=2)
    before = [segment.name for segment in sampled(config).ledger.segments()]
    assert [segment.name for segment in sampled(config).ledger.segments()] == before


def test_the_rollouts_do_not_depend_on_the_number_of_replicas(ray_cluster: None, tmp_path: Path) -> None:
    alone = read_rollouts(sampled(a_scripted_config(tmp_path / "one", train=12, samples=4)))
    three = read_rollouts(sampled(a_scripted_config(tmp_path / "three", train=12, samples=4, replicas=3)))
    assert {rollout.id: rollout.completion for rollout in alone} == {
        rollout.id: rollout.completion for rollout in three
    }


def test_until_correct_stops_a_problem_at_its_target(ray_cluster: None, tmp_path: Path) -> None:
    policy = {"kind": "until_correct", "target": 2, "max": 12, "wave": 2}
    rollouts = read_rollouts(sampled(a_scripted_config(tmp_path, train=30, policy=policy)))
    by_problem = Counter(rollout.problem.id for rollout in rollouts)
    correct = Counter(rollout.problem.id for rollout in rollouts if rollout.verdict.outcome is Outcome.CORRECT)
    assert len(by_problem) == 30
    assert all(correct[problem] >= 2 or count == 12 for problem, count in by_problem.items())
    assert all(correct[problem] <= 3 for problem in by_problem)
    assert sum(by_problem.values()) < 30 * 12 / 1.5, "stopping early must save samples"


def test_a_refused_request_is_a_rollout_with_its_reason(ray_cluster: None, tmp_path: Path) -> None:
    rollouts = read_rollouts(sampled(a_scripted_config(tmp_path, train=12, samples=4, engine={"error": 0.3})))
    refused = [rollout for rollout in rollouts if rollout.finish is Finish.ERROR]
    assert len(rollouts) == 48
    assert refused
    assert {(rollout.verdict.outcome, rollout.verdict.detail) for rollout in refused} == {
        (Outcome.FAILED, "scripted: the request was refused")
    }


def test_a_sample_that_kills_its_engine_is_isolated_and_its_siblings_are_kept(
    ray_cluster: None, tmp_path: Path
) -> None:
    run = sampled(a_scripted_config(tmp_path, train=9, samples=4, engine={"crash": 0.06}))
    rollouts = read_rollouts(run)
    poison = [rollout for rollout in rollouts if rollout.finish is Finish.ERROR]
    assert len(rollouts) == 36
    assert committed_twice(run) == 0
    assert 0 < len(poison) < 8
    assert all("the engine died" in rollout.verdict.detail for rollout in poison)


def test_a_killed_replica_loses_no_committed_rollout(ray_cluster: None, tmp_path: Path) -> None:
    from tests.bench.chaos import is_replica

    config = a_scripted_config(tmp_path, train=60, samples=10, replicas=2, engine={"seconds": 0.3, "max_num_seqs": 8})
    killed: list[int] = []

    def kill_some() -> None:
        while len(killed) < 3:
            time.sleep(2.5)
            ours = psutil.Process().children(recursive=True)  # never another cluster's
            alive = [process.pid for process in ours if is_replica(process)]
            if alive:
                os.kill(alive[0], signal.SIGKILL)
                killed.append(alive[0])

    killer = threading.Thread(target=kill_some, daemon=True)
    killer.start()
    run = sampled(config)
    killer.join(30)
    assert len(killed) == 3
    rollouts = read_rollouts(run)
    assert samples_per_problem(rollouts) == {10}
    assert len(rollouts) == 600
    assert all(rollout.finish is not Finish.ERROR for rollout in rollouts), (
        "a problem is not blamed for a kill from outside"
    )


def test_a_killed_driver_leaves_a_run_that_resumes(tmp_path: Path) -> None:
    engine = {"seconds": 0.4, "max_num_seqs": 8}
    config = a_scripted_config(tmp_path, train=30, samples=10, engine=engine, storage={"commit_seconds": 1})
    run = begin_or_resume(config)
    drive = (
        "import sys, ray; from reasonray.store.run import find_run; from reasonray.sampling.pool import ReplicaPool\n"
        "from reasonray.stages.sample import sample\n"
        "ray.init(address='local', num_cpus=4, include_dashboard=False, log_to_driver=False)\n"
        "run = find_run(sys.argv[1])\n"
        "with ReplicaPool(run) as pool: sample(run, pool)\n"
    )
    command = [sys.executable, "-c", drive, run.place.path]
    first = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + 90
    while not run.ledger.segments() and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    halfway = run.ledger.read().num_rows
    assert 0 < halfway < 300
    subprocess.run(command, check=True, timeout=120)
    rollouts = read_rollouts(run)
    assert samples_per_problem(rollouts) == {10}
    assert len(rollouts) == 300


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_and_sigterm_end_in_one_line_and_the_same_command_goes_on(
    tmp_path: Path, number: signal.Signals
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        f"""name = "stopped"\nroot = "{tmp_path}"
        sources = [{{ kind = "generated", train = 30, test = 5 }}]
        policy = {{ kind = "fixed", samples = 10 }}
        student = {{ model = "m", gpus = 0 }}
        storage = {{ commit_seconds = 1 }}
        [[teachers]]
        model = "m"
        gpus = 0
        engine = {{ kind = "scripted", seconds = 0.4, max_num_seqs = 8 }}"""
    )
    # A background job ignores SIGINT.
    begin = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    command = [sys.executable, "-c", f"{begin}from reasonray.cli.main import main; sys.exit(main())", "sample"]
    stopped = subprocess.Popen([*command, str(config)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    segments = tmp_path / "stopped" / "rollouts" / "segments"
    deadline = time.monotonic() + 90
    while not list(segments.glob("*")) and time.monotonic() < deadline:
        time.sleep(0.2)
    stopped.send_signal(number)
    _, errors = stopped.communicate(timeout=60)
    assert stopped.returncode == 130
    assert errors.splitlines() == ["interrupted: what is finished is kept; the same command goes on from there"]
    halfway = read_rollouts(find_run(str(tmp_path / "stopped")))
    assert 0 < len(halfway) < 300
    subprocess.run([*command, str(config)], check=True, timeout=120, capture_output=True)
    assert samples_per_problem(read_rollouts(find_run(str(tmp_path / "stopped")))) == {10}


def test_asking_for_more_gpus_than_the_cluster_has_is_a_one_line_error(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path)
    teacher = config.teachers[0].model_copy(update={"gpus": 2})
    with pytest.raises(UserError, match=r"ask for 2 GPUs each; the cluster has 0 .* lower gpus"):
        sampled(config.model_copy(update={"teachers": (teacher,)}))


def test_a_crash_loop_ends_with_its_cause(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(
        tmp_path, train=6, samples=2, engine={"correct": 0, "endless": 0, "unparseable": 0, "crash": 1}
    )
    with pytest.raises(UserError, match="died 8 times in a row"):
        sampled(config)


def test_a_hung_engine_is_replaced_and_the_sample_that_hangs_it_is_recorded(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(
        tmp_path, train=6, samples=4, engine={"hang": 0.05, "max_num_seqs": 8}, failures={"hang_seconds": 1.0}
    )
    run = sampled(config)
    rollouts = read_rollouts(run)
    hung = [rollout for rollout in rollouts if rollout.finish is Finish.ERROR]
    assert len(rollouts) == 24
    assert 0 < len(hung) < 5
    assert all("EngineHung: no token for" in rollout.verdict.detail for rollout in hung)


def test_storage_that_fails_for_a_while_delays_the_run_and_loses_nothing(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=30, samples=10, engine={"seconds": 0.3, "max_num_seqs": 12})
    run = begin_or_resume(config)
    run.ledger.append([])
    manifests = Path(run.place.path) / "rollouts" / "manifest"

    def fail_for_a_while() -> None:
        before = len(list(manifests.iterdir()))
        while len(list(manifests.iterdir())) == before:  # the stage reads the manifests at its start: wait for a commit
            time.sleep(0.05)
        away = manifests.with_name("away")
        manifests.rename(away)
        manifests.write_text("a file where the directory was: every commit fails")
        time.sleep(6)
        manifests.unlink()
        away.rename(manifests)

    failing = threading.Thread(target=fail_for_a_while)
    failing.start()
    sampled(config)
    failing.join()
    assert len(read_rollouts(run)) == 300
    assert committed_twice(run) == 0


def test_replicas_join_if_there_is_work_and_room(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(
        tmp_path, train=120, samples=10, replicas=[1, 3], engine={"seconds": 0.3, "max_num_seqs": 16}
    )
    run = sampled(config)
    assert len(read_rollouts(run)) == 1200
    replicas = [event["replicas"] for event in run.events.read("sample") if "replicas" in event]
    assert 2 <= max(replicas) <= 3
    states = [event["state"] for event in run.events.read("replica")]
    assert states.count("joined") >= max(replicas)
    assert {event.get("cause") for event in run.events.read("replica")} <= {None, "no work is left"}


def test_a_busy_replica_releases_problems_that_it_has_not_started(ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=30, samples=4, replicas=2, engine={"seconds": 0.8, "max_num_seqs": 4})
    run = sampled(config)
    assert len(read_rollouts(run)) == 120
    assert committed_twice(run) == 0
    last = run.events.read("sample")[-1]
    assert last["idle_fraction"] < 0.25, "no replica waits long while the other has problems left"


def test_a_teacher_of_the_unsolved_gets_what_those_before_it_did_not_solve(ray_cluster: None, tmp_path: Path) -> None:
    raw = a_scripted_config(tmp_path, train=40, samples=4).model_dump(mode="json")
    first = raw["teachers"][0] | {"name": "small", "prompts": [{}, {"system": "Think twice."}], "prompt": {}}
    del first["prompt"]
    raw["teachers"] = [first, raw["teachers"][0] | {"name": "large", "model": "larger", "share": "unsolved"}]
    run = sampled(parse(raw))
    rollouts = read_rollouts(run)
    small, large = ([rollout for rollout in rollouts if rollout.teacher == name] for name in ("small", "large"))
    solved = {rollout.problem.id for rollout in small if rollout.verdict.outcome is Outcome.CORRECT}
    assert 0 < len(solved) < 40
    assert {rollout.problem.id for rollout in large} == {rollout.problem.id for rollout in small} - solved
    assert len(large) == 4 * (40 - len(solved))
    assert [rollout.prompt for rollout in small] == [rollout.sample % 2 for rollout in small]
    assert sampled(parse(raw)).ledger.count() == len(rollouts), "again, nothing is added"


def test_recorded_completions_become_rollouts_and_sampling_adds_what_they_lack(
    ray_cluster: None, tmp_path: Path
) -> None:
    raw = a_scripted_config(tmp_path, train=12).model_dump(mode="json")
    train = [problem for problem in load(parse(raw).sources).problems if problem.split is Split.TRAIN]
    rows = [
        {
            "problem": problem.question,
            "generations": [f"The answer is {problem.answer}{'1' * (n % 2)}." for n in range(i % 5)],
        }
        for i, problem in enumerate(train)
    ]
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recorded = {"name": "r1", "model": "r1", "engine": {"kind": "recorded", "files": str(tmp_path / "traces.jsonl")}}
    raw |= {
        "name": "with-recordings",
        "teachers": [recorded | {"cpus": 0.1}, raw["teachers"][0] | {"name": "more", "share": "unfinished"}],
        "policy": {"kind": "until_correct", "target": 2, "max": 6},
    }
    run = sampled(parse(raw))
    rollouts = read_rollouts(run)
    by_problem = {problem.id: [row for row in rollouts if row.problem.id == problem.id] for problem in train}
    for number, problem in enumerate(train):
        own = [row.completion for row in by_problem[problem.id] if row.teacher == "r1"]
        assert set(own) <= set(rows[number]["generations"])
        assert len(own) >= min(3, number % 5), "all of them, or until the second correct one"
        added = [row for row in by_problem[problem.id] if row.teacher == "more"]
        correct = sum(row.verdict.outcome is Outcome.CORRECT for row in by_problem[problem.id])
        assert correct >= 2 or len(by_problem[problem.id]) == 6
        assert bool(added) == (number % 5 < 3), "only where two correct ones were not recorded"
    assert sampled(parse(raw)).ledger.count() == len(rollouts), "again, nothing is added"
    (tmp_path / "traces.jsonl").write_text(
        "\n".join(map(json.dumps, [rows[4] | {"generations": ["x"] * 9}, *rows[:4]]))
    )
    with pytest.raises(UserError, match=r"its files changed"):
        sampled(parse(raw | {"policy": raw["policy"] | {"target": 5}}))
