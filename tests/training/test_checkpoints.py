"""Validation loss, states saved between checkpoints, and full disks."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reasonray.errors import UserError
from reasonray.training import examples, loop, plan
from reasonray.training.examples import collate
from tests.students import curve, in_workers, make_job, random_examples, train, train_as_worker, weighted_examples

pytestmark = pytest.mark.slow

VALIDATION_LENGTHS = (7, 3, 19, 11)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def with_validation(job: loop.TrainingJob, lengths: tuple[int, ...] = VALIDATION_LENGTHS) -> loop.TrainingJob:
    path = Path(job.examples).with_name("held-out.arrow")
    examples.write(path, random_examples(lengths))
    return loop.TrainingJob(**(vars(job) | {"validation": str(path)}))


def test_the_validation_loss_is_the_mean_over_target_tokens_and_trains_nothing(tmp_path: Path) -> None:
    plain = make_job(tmp_path / "plain", checkpoints=2)
    job = with_validation(make_job(tmp_path / "measured", checkpoints=2))
    figures, saved = train(job)
    assert curve(figures) == curve(train(plain)[0])
    measured = {int(row["step"]): row["validation_loss"] for row in figures if "validation_loss" in row}
    assert set(measured) == set(saved)
    assert figures[0]["validation_loss_before"] != pytest.approx(measured[max(measured)], abs=1e-3)
    session = loop.open_session(
        loop.TrainingJob(**(vars(job) | {"model_directory": str(saved[max(saved)] / "model")})), 0, 1
    )
    known = examples.read(job.validation)
    with torch.no_grad():
        total = sum(float(session.student(collate(known, [row]))) for row in range(len(known)))
    assert measured[max(measured)] == pytest.approx(total / int(known.target_lengths.sum()), rel=1e-5)


def test_a_checkpoint_of_a_version_without_steps_of_packs_is_resumed(tmp_path: Path) -> None:
    job = make_job(tmp_path, epochs=2, checkpoints=2)
    figures, saved = train(job)
    progress = saved[1] / "progress.json"
    document = json.loads(progress.read_text())
    progress.write_text(json.dumps({name: value for name, value in document.items() if name != "training.step"}))
    assert document["training.batch"] == 8
    rest, _ = train(job, resume_from=saved[1])
    assert curve(rest) == curve(figures[1:])


def test_steps_of_packs_resume_bit_equal_and_from_no_other_size(tmp_path: Path) -> None:
    job = make_job(tmp_path, weighted_examples(), epochs=2, checkpoints=2, batch=None, step={"packs": 1})
    figures, saved = train(job)
    half = len(figures) // 2
    rest, _ = train(job, resume_from=saved[half])
    assert len(figures) > 2
    assert curve(rest) == curve(figures[half:])
    other = make_job(tmp_path, weighted_examples(), epochs=2, checkpoints=2, batch=None, step={"packs": 2})
    with pytest.raises(UserError, match=r"training\.step was {'packs': 1, 'tokens': None} and is now {'packs': 2"):
        train(other, resume_from=saved[half])


def test_a_written_plan_takes_the_steps_of_one_made_by_the_worker(tmp_path: Path) -> None:
    job = make_job(tmp_path, weighted_examples(), epochs=2, batch=None, step={"packs": 1})
    plan.write(tmp_path / "plan.arrow", loop.make_plan(job))
    planned = replace(job, plan=str(tmp_path / "plan.arrow"))
    assert curve(train(planned)[0]) == curve(train(job)[0])


def test_validation_examples_that_are_all_too_long_are_not_measured(tmp_path: Path) -> None:
    figures, _ = train(with_validation(make_job(tmp_path, epochs=1), (90, 80)))
    assert not any("validation_loss" in row for row in figures)


def test_two_workers_measure_the_validation_loss_of_one(tmp_path: Path) -> None:
    job = with_validation(make_job(tmp_path, epochs=1, checkpoints=1))
    (one,), _ = train(job)
    in_workers(2, (train_as_worker, (job, tmp_path / "two.json")))
    (two,) = json.loads((tmp_path / "two.json").read_text())
    for name in ("validation_loss_before", "validation_loss"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)


def test_a_state_saved_between_checkpoints_resumes_bit_equal_and_has_no_model(tmp_path: Path) -> None:
    job = make_job(tmp_path, batch=3, checkpoints=1)
    figures, states = [], {}
    save_now = iter([False, True, *[False] * 99])
    loop.run(job, 0, 1, None, figures.append, states.__setitem__, lambda: next(save_now))
    assert list(states) == [2, len(figures)]
    assert states[2].parent.name == "states"
    assert not (states[2] / "model").exists()
    rest, _ = train(job, resume_from=states[2])
    assert curve(rest) == curve(figures[2:])


def test_a_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    _, saved = train(make_job(tmp_path / "one", epochs=1))
    other = make_job(tmp_path / "other", epochs=1)
    settings = Path(other.model_directory) / "config.json"
    settings.write_text(settings.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    with pytest.raises(UserError, match="cannot resume from step-000001: model was"):
        train(other, resume_from=saved[1])


def test_a_disk_that_fills_while_saving_leaves_the_earlier_checkpoints_intact(tmp_path: Path) -> None:
    job = make_job(tmp_path, checkpoints=2)
    steps = len(train(job)[0])
    first = Path(job.checkpoint_directory) / f"step-{steps // 2:06d}"
    before = {file: file.read_bytes() for file in first.rglob("*") if file.is_file()}
    script = (
        "import resource, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
        "from tests.students import make_job, train\n"
        "job = make_job(Path(sys.argv[2]), checkpoints=2)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"  # every longer file fails to be written
        "train(job, resume_from=Path(sys.argv[3]))\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, root, str(tmp_path), str(first)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert "NotSaved: the checkpoint of step" in message
    assert "File too large" in message
    assert "make room, and run the same command again" in message
    assert {file: file.read_bytes() for file in first.rglob("*") if file.is_file()} == before
    assert not (Path(job.checkpoint_directory) / f"step-{steps:06d}").exists()
