"""The store of the workers' checkpoints: complete by manifest, whatever remains of an earlier attempt."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reasonray.store.checkpoints import CheckpointStore, trained_on_other
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.storage import Place, place
from tests.factories import a_scripted_config
from tests.store.test_s3 import s3_server

pytestmark = pytest.mark.slow


def a_store(
    run: Run,
    rank: int,
    world: int,
    *,
    reported: list[dict[str, float]] | None = None,
    is_preempted: Callable[[], bool] = lambda: False,
) -> CheckpointStore:
    """Return one worker's store, with a list in place of Ray Train's report."""
    report = [] if reported is None else reported
    return CheckpointStore(run, "data", rank, world, is_preempted=is_preempted, report=report.append)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Run]:
    """A run in an object store."""
    with s3_server() as url:
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        query = f"endpoint_override={url.removeprefix('http://')}&scheme=http&region=us-east-1"
        root = f"s3://testing:testing@bucket/runs?{query}"
        yield begin_or_resume(a_scripted_config(tmp_path).model_copy(update={"root": root}))


def part(root: Path, step: int, rank: int, world: int) -> Path:
    """Write one of `world` workers' part of a state, as on its own machine, and return its directory."""
    directory = root / f"{rank} of {world}" / "states" / f"step-{step:06d}"
    (directory / "state").mkdir(parents=True)
    for name in (f"__{rank}_0.distcp", *([".metadata"] if rank == 0 else [])):
        (directory / "state" / name).write_text(f"of {world}")
    return directory


def contents(folder: Place) -> dict[str, str]:
    return {file.name: file.read().decode() for file in folder.list()}


def test_parts_of_a_dead_attempt_do_not_enter_the_state_of_the_next_one(stored: Run, tmp_path: Path) -> None:
    states = stored.student / "checkpoints" / "states"
    with a_store(stored, 0, 1) as store:
        store.save(2, part(tmp_path, 2, 0, 1), [{"step": 2}])
    for rank in (1, 2):  # of three workers; the first died before it had written its own part
        place(part(tmp_path, 5, rank, 3)).copy(states / "step-000005")
        (states / "step-000005" / "parts" / str(rank)).write(b"")
    (stored.student / "checkpoints" / "step-000004" / "model" / "config.json").write(b"torn")
    first, second = a_store(stored, 0, 2), a_store(stored, 1, 2)
    with first:
        first.save(5, part(tmp_path, 5, 0, 2), [{"step": 5}])
        time.sleep(1.0)  # the first worker waits for the second's part
        assert [state.name for state in stored.states()] == ["step-000002"]
        with second:
            second.save(5, part(tmp_path, 5, 1, 2), [{"step": 5}])
    assert [state.name for state in stored.states()] == ["step-000005"]
    assert set(contents(states / "step-000005" / "state").values()) == {"of 2"}
    assert json.loads((states / "step-000005" / "steps.json").read()) == [{"step": 5}]
    assert not (stored.student / "checkpoints" / "step-000004").exists()


def test_what_is_uploaded_does_not_stay_on_the_workers_disk(stored: Run, tmp_path: Path) -> None:
    directory = part(tmp_path, 2, 0, 1)
    with a_store(stored, 0, 1) as store:
        store.save(2, directory, [{"step": 2}])
    assert [state.name for state in stored.states()] == ["step-000002"]
    assert not directory.exists()


def test_any_state_shows_whether_other_data_or_settings_made_it(
    tmp_path: Path,
) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path))
    assert trained_on_other(run, "data") == {}
    reported: list[dict[str, float]] = []
    with a_store(run, 0, 1, reported=reported) as store:
        store.save(2, Path(run.student.path) / "checkpoints" / "states" / "step-000002", [{"step": 2, "loss": 1.5}])
    assert reported == [{"step": 2, "loss": 1.5}]
    assert trained_on_other(run, "data") == {}
    assert trained_on_other(run, "other data")["data"] == "data"
    for update, other in (
        ({"max_tokens": 77}, True),
        ({"lora_rank": 4}, True),
        ({"workers": 3, "cpu_offload": True, "keep": 1, "checkpoints": 9, "student": "best"}, False),
    ):
        training = run.config.training.model_copy(update=update)
        changed = Run(run.place, run.config.model_copy(update={"training": training}))
        assert bool(trained_on_other(changed, "data")) is other


def test_a_state_is_saved_once_when_a_node_is_about_to_be_preempted(tmp_path: Path) -> None:
    warnings = iter([False, True, True, False, True])
    store = a_store(begin_or_resume(a_scripted_config(tmp_path)), 1, 2, is_preempted=lambda: next(warnings))
    assert [store.is_due() for _ in range(5)] == [False, True, False, False, True]


def test_a_state_is_saved_once_per_period_and_before_the_period_ends(tmp_path: Path) -> None:
    run = begin_or_resume(a_scripted_config(tmp_path, training={"save_minutes": 3 / 60}))
    first, second = a_store(run, 0, 2), a_store(run, 1, 2)
    assert not first.is_due()
    time.sleep(2.7)
    assert [first.is_due(), first.is_due()] == [True, False]
    assert not second.is_due(), "one worker is enough"
