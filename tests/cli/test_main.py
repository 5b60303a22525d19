import re
import sys
from pathlib import Path

import pytest

from reasonray.cli.main import main
from reasonray.cli.preflight import path_in_job, root_in_job
from reasonray.config import UserError
from reasonray.records import Outcome, Split
from reasonray.store.run import begin_or_resume
from tests.factories import a_problem, a_rollout, a_scripted_config

SMOKE = str(Path(__file__).parents[2] / "jobs" / "configs" / "smoke.toml")


@pytest.fixture
def run(tmp_path: Path) -> str:
    run = begin_or_resume(a_scripted_config(tmp_path))
    run.store_problems([a_problem(), a_problem("2 + 2?", "4", split=Split.TEST)])
    run.ledger.append([a_rollout(sample=0), a_rollout("The answer is 41.", Outcome.WRONG, sample=1)])
    return run.place.path


def test_plan_prints_the_cost_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", SMOKE, "policy.samples=5"]) == 0
    printed = capsys.readouterr().out
    assert "24 to distil   12 held out" in printed
    assert "120 rollouts at most by teacher" in printed


def test_plan_counts_shares_budget_checkpoints_judges_and_labeller(capsys: pytest.CaptureFixture[str]) -> None:
    scripted = 'model="scripted", engine={kind="scripted"}'
    more = [
        f'teachers=[{{name="large", share=0.25, {scripted}}}, {{name="small", share=0.75, {scripted}}}]',
        "budget={tokens=5000, accelerator_hours=1.5}",
        "checking.judge={model='m', engine={kind='scripted'}}",
        "curation.labeller={model='l', engine={kind='scripted'}}",
        "curation.paraphrase_judge={model='p', engine={kind='scripted'}}",
        "training.checkpoints=3",
        "evaluation={samples=2, checkpoint_problems=5}",
    ]
    assert main(["plan", SMOKE, *more]) == 0
    printed = capsys.readouterr().out
    shares = [int(count) for count in re.findall(r"(\d+) rollouts at most by (?:large|small)", printed)]
    assert sum(shares) == 24 * 8
    assert shares[0] < shares[1]
    assert "sampling ends at 5,000 tokens or 1.5 accelerator hours" in printed
    assert "192 rollouts at most are shown to m" in printed
    assert f"192 rollouts at most by l   {192 * 256:,} tokens at most" in printed
    assert f"{24 + 2 * 24} questions at most about paraphrases to p   {72 * 256:,} tokens at most" in printed
    assert f"96 samples of 4 models   {96 * 1024:,} tokens at most" in printed
    assert f"20 samples of checkpoints, 2 at most   {20 * 1024:,} tokens at most" in printed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ('curation.rules=["duplicat"]', "no rule 'duplicat'"),
        ('curation.rules=["nowhere.rules:polite"]', "nowhere.rules:polite cannot be imported"),
        ("checking.instead.math_answer=nope", "checking.instead: no checker is called 'nope'"),
        ('curation.benchmarks=["nofile.jsonl"]', "curation.benchmarks: no file at nofile.jsonl"),
        ("evaluation.cluster=templat", "evaluation.cluster = 'templat'"),
    ],
)
def test_plan_refuses_settings_that_would_fail_after_sampling(
    override: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", SMOKE, override]) == 2
    assert message in capsys.readouterr().err


def test_a_job_and_a_submission_refuse_such_settings_before_they_create_a_run_or_reach_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [SMOKE, f"root={tmp_path}", 'curation.rules=["duplicat"]']
    assert main(["sample", *wrong]) == 2
    assert not list(tmp_path.iterdir())
    jobs = Path(SMOKE).parent.parent
    assert main(["submit", "--address", "http://127.0.0.1:1", str(jobs / "distill.py"), *wrong]) == 2
    assert capsys.readouterr().err.count("no rule 'duplicat'") == 2


def test_a_users_rule_is_found_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rules_of_the_directory.py").write_text("def polite(table, curation): ...")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["plan", SMOKE, 'curation.rules=["rules_of_the_directory:polite"]']) == 0


def test_status_prints_what_a_run_holds(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", run]) == 0
    printed = capsys.readouterr().out
    assert "1 to distil   1 held out" in printed
    assert "2 rollouts by teacher   correct 1  wrong 1" in printed


def test_show_prints_the_matching_rollouts(run: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", run, "--outcome", "wrong"]) == 0
    printed = capsys.readouterr().out
    assert "The answer is 41." in printed
    assert "The answer is 42." not in printed
    assert main(["show", run, "--outcome", "timeout"]) == 2


def test_a_missing_run_and_a_missing_cluster_are_one_line_each(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert main(["submit", "--address", "http://127.0.0.1:1", "jobs/nowhere.py", SMOKE]) == 2
    for address in ("http://127.0.0.1:1", "notaurl"):
        assert main(["submit", "--address", address, "jobs/distill.py", SMOKE, f"root={tmp_path}"]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 4
    assert all(line.startswith("error: ") for line in errors)


def test_a_job_without_arguments_asks_only_for_its_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["sample"])
    assert capsys.readouterr().err.endswith("the following arguments are required: CONFIG\n")


def test_overrides_may_follow_an_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submit = ["submit", "jobs/distill.py", "jobs/configs/smoke.toml", "policy.samples=3"]
    assert main([*submit, "--address", "http://127.0.0.1:1", f"root={tmp_path}", "curation.rules=[]"]) == 2
    assert "no Ray cluster answers" in capsys.readouterr().err
    assert main([*submit, "--address", "http://127.0.0.1:1", "policy.samplse=3"]) == 2
    assert "unknown key samplse" in capsys.readouterr().err
    for wrong in (["--adress=x"], ["stray"]):
        with pytest.raises(SystemExit):
            main([*submit, "--no-wait", *wrong])
        assert f"unrecognized arguments: {wrong[0]}" in capsys.readouterr().err


def test_submitted_files_are_named_relative_to_the_shipped_directory(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "c.toml").touch()
    (tmp_path / "outside.toml").touch()
    assert path_in_job("c.toml", tmp_path / "here") == "c.toml"
    assert path_in_job(str(tmp_path / "here" / "c.toml"), tmp_path / "here") == "c.toml"
    for outside in (str(tmp_path / "outside.toml"), "../outside.toml", "nowhere.toml"):
        with pytest.raises(UserError, match="is not below"):
            path_in_job(outside, tmp_path / "here")


def test_a_relative_root_becomes_absolute_on_a_local_cluster_and_is_refused_on_a_remote_one() -> None:
    assert root_in_job("runs", None) == str(Path.cwd() / "runs")
    assert root_in_job("s3://bucket/runs", "http://head:8265") == "s3://bucket/runs"
    with pytest.raises(UserError, match="root = 'runs' is relative"):
        root_in_job("runs", "http://head:8265")


def test_config_prints_every_knob_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    printed = capsys.readouterr().out
    assert "**`learning_rate`** = `1e-05`" in printed
    assert "**`temperature`** = `1.0`" in printed


@pytest.mark.parametrize(
    ("job", "command"), [("jobs/train.py", "python jobs/train.py"), ("train", "python -m reasonray.cli.main train")]
)
def test_a_script_or_a_command_is_submitted_with_the_configuration_and_an_absolute_root(
    job: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrypoints: list[str] = []

    def record(entrypoint: str, *_: object, **__: object) -> int:
        entrypoints.append(entrypoint)
        return 7

    monkeypatch.setattr("reasonray.cli.submit._submit", record)
    assert main(["submit", job, "jobs/configs/smoke.toml", "policy.samples=3"]) == 7, "the job's exit status"
    assert entrypoints == [f"{command} jobs/configs/smoke.toml policy.samples=3 root={Path.cwd() / 'runs'}"]
