"""The chaos benchmark, small enough to run every day."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.ray


def test_no_rollout_is_lost_or_duplicated_whatever_is_killed(tmp_path: Path) -> None:
    from tests.bench.chaos import chaos

    figures = chaos(tmp_path, rollouts=1000, kills=4, seed=3, pause=2.0)
    assert sum(figures["kills"].values()) >= 3
    assert (figures["lost"], figures["duplicated"], figures["blamed"]) == (0, 0, 0)
    assert 0 <= figures["generated_beyond_plan"] <= figures["in_flight_at_kills"]
