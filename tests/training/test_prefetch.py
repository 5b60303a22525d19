"""Values are made ahead in a thread that does not outlive the training, and change no bit of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasonray.training import loop
from reasonray.training.examples import Batch
from reasonray.training.prefetch import Prefetcher
from tests.students import curve, make_job, random_examples, train


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    torch.set_num_threads(1)
    yield
    assert not threads()


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("prefetch")]


@given(st.lists(st.tuples(st.integers(0, 3), st.none() | st.integers(0, 3))))
def test_each_value_is_that_of_its_key_whatever_was_announced(asked: list[tuple[int, int | None]]) -> None:
    with Prefetcher(lambda key: [key]) as values:
        assert [values.get(key, following) for key, following in asked] == [[key] for key, _ in asked]


def test_the_following_value_is_made_in_a_thread_while_the_present_one_is_used() -> None:
    made = {key: threading.Event() for key in "abc"}
    makers: dict[str, str] = {}

    def make(key: str) -> str:
        makers[key] = threading.current_thread().name
        made[key].set()
        return key

    with Prefetcher(make) as values:
        values.get("a", "b")
        assert made["b"].wait(10)
        values.get("b", "c")
        assert made["c"].wait(10)
    assert makers["a"] == threading.current_thread().name
    assert makers["b"].startswith("prefetch")


def test_an_exception_is_raised_where_its_value_is_needed_and_nowhere_else() -> None:
    def make(key: int) -> float:
        return 1 / key

    with Prefetcher(make) as values:
        assert values.get(1, 0) == 1
        with pytest.raises(ZeroDivisionError):
            values.get(0, 2)
        assert values.get(2, 0) == 0.5


def test_a_training_is_bit_equal_to_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(tmp_path, batch=4, max_tokens=24, epochs=2)
    ahead, _ = train(job)
    ids: list[torch.Tensor] = []

    def without(values: Prefetcher[list[int], Batch], key: list[int], following: list[int] | None) -> Batch:
        batch = values._make(key)
        ids.append(batch.input_ids)
        return batch

    monkeypatch.setattr(Prefetcher, "get", without)
    assert curve(train(job)[0]) == curve(ahead)
    assert len(ids) > len(ahead), "control: steps have several packs"


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_pack_that_cannot_be_read_ends_the_training_in_its_own_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    job = make_job(tmp_path, random_examples((5,) * 6), batch=1, max_tokens=5, epochs=1)
    steps: list[float] = []
    collate, made = loop.collate, []

    def broken(examples: object, pack: list[int]) -> Batch:
        made.append(pack)
        if len(made) == number + 1:
            raise OSError("stale file handle")
        return collate(examples, pack)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "collate", broken)
    with pytest.raises(OSError, match="stale"):
        loop.run(job, 0, 1, None, lambda figures: steps.append(figures["step"]), lambda *_: None)
    assert steps == list(range(1, number + 1))


def test_no_thread_outlives_a_training_that_is_interrupted(tmp_path: Path) -> None:
    def stop(figures: dict[str, float]) -> None:
        assert threads(), "control: the next step's first pack is made already"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.run(make_job(tmp_path, batch=2, epochs=1), 0, 1, None, stop, lambda *_: None)
    assert not threads()
