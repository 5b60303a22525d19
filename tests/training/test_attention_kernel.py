"""The kernel of attention is the fastest one that the GPU and its installed packages have."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from reasonray.training.attention import fastest_kernel

EVERYTHING = {"flash_attn_interface", "flash_attn", "flash_attn.cute", "flash_attn.cute.interface"}


@pytest.mark.parametrize(
    ("capability", "installed", "expected"),
    [
        ((8, 0), EVERYTHING, "FA2"),
        ((9, 0), EVERYTHING, "FA3"),
        ((9, 0), {"flash_attn", "flash_attn.cute.interface"}, "FA2"),
        ((10, 0), EVERYTHING, "FA4"),
        ((10, 0), {"flash_attn"}, "FA2"),
        ((10, 0), {"flash_attn_interface"}, "FA2"),
        ((12, 0), EVERYTHING, "FA2"),
    ],
)
def test_each_gpu_gets_the_kernel_that_is_made_for_it(
    capability: tuple[int, int], installed: set[str], expected: str
) -> None:
    assert fastest_kernel(capability, installed.__contains__) == expected


def test_without_flash_attention_4_nothing_is_looked_for_within_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert fastest_kernel((10, 0), lambda module: find_spec(module) is not None) == "FA2"
