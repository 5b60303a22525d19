"""The checks before a run begins."""

from pathlib import Path
from typing import Any

import pytest

from reasonray.config import Config, UserError, parse
from reasonray.pipeline import check_before_start, open_run, refuse_untrainable_rollouts
from reasonray.store.run import begin_or_resume
from tests.factories import a_minimal_config


def config(root: Path, *, written: int, kept: int = 16_384, trained: int | None = None, **curation: Any) -> Config:
    teacher = {"model": "m", "engine": {"kind": "scripted"}, "sampling": {"max_tokens": written}}
    training = {} if trained is None else {"max_tokens": trained}
    return a_minimal_config(root, teachers=[teacher], training=training, curation={"max_tokens": kept} | curation)


@pytest.mark.parametrize(
    ("written", "kept", "trained"),
    [(1024, 16_384, 4096), (3072, 16_384, 4096), (12_000, 16_384, 13_024), (32_768, 16_384, 17_408), (9000, 50, 4096)],
)
def test_training_has_room_for_the_longest_rollout_by_default(
    tmp_path: Path, written: int, kept: int, trained: int
) -> None:
    by_default = config(tmp_path, written=written, kept=kept)
    assert by_default.training.max_tokens == trained
    refuse_untrainable_rollouts(by_default)
    assert parse(by_default.model_dump(mode="json")).training.max_tokens == trained


def test_without_the_rule_too_long_all_that_teachers_write_is_kept(tmp_path: Path) -> None:
    assert config(tmp_path, written=32_768, rules=["incorrect"]).training.max_tokens == 33_792


def test_rollouts_that_training_would_leave_out_are_refused_before_they_are_sampled(tmp_path: Path) -> None:
    wrong = config(tmp_path, written=12_000, trained=4096)
    message = r"training\.max_tokens = 4096 would leave out .* up to 12000 tokens"
    with pytest.raises(UserError, match=message), open_run(wrong):
        pass
    assert not (tmp_path / "a-run").exists()
    refuse_untrainable_rollouts(config(tmp_path, written=12_000, kept=3000, trained=4096))


def test_a_run_that_began_with_such_settings_goes_on(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="would leave out"):
        check_before_start(config(tmp_path, written=12_000, trained=4096))
    begin_or_resume(config(tmp_path, written=12_000, trained=4096))
    check_before_start(config(tmp_path, written=12_000, trained=4096))


def test_a_run_that_had_room_is_not_extended_beyond_it(tmp_path: Path) -> None:
    begin_or_resume(config(tmp_path, written=2000, trained=4096))
    with pytest.raises(UserError, match="up to 12000 tokens"):
        check_before_start(config(tmp_path, written=12_000, trained=4096))
