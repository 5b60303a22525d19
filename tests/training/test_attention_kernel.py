"""The kernel of attention is the fastest one that the GPU and its installed packages have."""

import pytest

from reasonray.training.attention import fastest_kernel

EVERYTHING = {"flash_attn_interface", "flash_attn", "flash_attn.cute.interface"}


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
