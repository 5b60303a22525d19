"""Training ends when the loss on the validation examples has stopped falling, and so it does after it was resumed."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import ConfigError
from reasonray.training import examples, loop
from tests.factories import a_minimal_config
from tests.students import curve, make_job, random_examples, train


@given(st.lists(st.floats(0, 9), max_size=8), st.integers(1, 4))
def test_losses_have_stalled_where_the_lowest_is_as_many_checkpoints_ago(losses: list[float], patience: int) -> None:
    lowest = losses.index(min(losses)) if losses else 0
    assert loop.has_stalled(losses, patience) == (len(losses) - 1 - lowest >= patience)
    assert not loop.has_stalled(losses, None)


def a_job(root: Path, patience: int | None) -> loop.TrainingJob:
    """Return a job of eight checkpoints that forgets what the validation examples hold."""
    job = make_job(root, batch=4, epochs=4, checkpoints=8, learning_rate=0.2, patience=patience)
    held_out = [replace(row, ids=row.ids[::-1]) for row in random_examples()]
    examples.write(root / "held-out.arrow", held_out)
    return replace(job, validation=str(root / "held-out.arrow"))


def test_training_ends_after_its_patience_and_after_resuming_at_the_same_step(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    everything, _ = train(a_job(tmp_path / "all", None))
    job = a_job(tmp_path, 2)
    figures, saved = train(job)
    losses = [row["validation_loss"] for row in everything]
    expected = next(count for count in range(1, 9) if loop.has_stalled(losses[:count], 2))
    assert len(figures) == max(saved) == expected < 8
    assert curve(figures) == curve(everything[:expected]), "the steps before are those of the whole training"
    rest, _ = train(job, resume_from=saved[expected - 1])
    assert curve(rest) == curve(figures[-1:]), "the losses before it are in the checkpoint"
    assert train(job, resume_from=saved[expected])[0] == [], "it had ended"


def test_a_loss_measured_between_checkpoints_changes_nothing_but_the_curve(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    plain, plain_saved = train(a_job(tmp_path / "plain", 2))
    job = a_job(tmp_path / "often", 2)
    job = replace(job, training=job.training.model_copy(update={"validate_every": 2, "checkpoints": 2}))
    often, often_saved = train(job)
    assert curve(often[: len(plain)]) == curve(plain[: len(often)])
    assert [row["step"] for row in often if "validation_loss" in row] == [2, 4, 6, 8]
    assert set(often_saved) == {4, 8} < {row["step"] for row in often}
    assert plain_saved.keys() >= {1, 2}, "the other has a checkpoint at every step"


@pytest.mark.parametrize("key", ["patience", "validate_every"])
def test_a_key_that_needs_validation_examples_is_refused_without(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"training\.{key} needs the loss on held-out examples"):
        a_minimal_config(tmp_path, training={key: 2})
