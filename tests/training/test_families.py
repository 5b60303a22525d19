"""The table of architectures in the training room's README says what training does."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig

from reasonray.config import Training
from reasonray.training import loop
from reasonray.training.architecture import read_config, supports_packing
from reasonray.training.model import _stored_weights
from tests.families import BEGIN, END, FAMILIES, HEADER, README, findings, outcome, write_family
from tests.students import make_job

pytestmark = pytest.mark.slow

ROWS = {
    line.split("|")[1].strip(): line + "\n"
    for line in README.read_text().partition(BEGIN)[2].partition(END)[0].removeprefix(HEADER).splitlines()
}
THOROUGHLY = ("llama", "mixtral", "gemma4", "nemotron_h", "gpt_oss")
"""Families of different kinds: dense, experts, capped with a vision tower, hybrid, sinks."""


def test_the_table_lists_every_family() -> None:
    assert list(ROWS) == list(FAMILIES)
    assert len(ROWS) >= 45


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_opened_or_refused_as_the_table_says(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_family(name, tmp_path / "model")
    cells = [cell.strip() for cell in ROWS[name].split("|")]
    found = outcome(lambda: loop.open_session(make_job(tmp_path), 0, 1))
    assert cells[2] == ("yes" if found == "yes" else f"refused: {found}")
    if found != "yes":
        return
    assert _stored_weights(tmp_path / "model", read_config(tmp_path / "model", Training())) is not None
    assert (cells[3] == "yes") == supports_packing(AutoConfig.from_pretrained(tmp_path / "model"))


@pytest.mark.parametrize("name", THOROUGHLY)
def test_a_family_trains_in_every_way_that_the_table_says(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert findings(name, tmp_path).row(name) == ROWS[name]
    finally:
        dist.destroy_process_group()
