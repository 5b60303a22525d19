"""The requests in flight that keep an engine busy."""

from hypothesis import given
from hypothesis import strategies as st

from reasonray.engines.capacity import Capacity


def test_capacity_is_what_the_engine_computes_and_its_cache_holds() -> None:
    assert Capacity(256, 0, 4096).requests == 281
    assert Capacity(1024, 400_000, 32768).requests == 429, "390 rollouts of 1,024 tokens fill the cache"
    assert Capacity(256, 10_000_000, 32768).requests == 281
    assert Capacity(256, 300, 512).requests == 1


@given(st.integers(1, 2048), st.integers(0, 10**7), st.lists(st.integers(1, 40_000), max_size=100))
def test_capacity_never_shrinks_and_never_exceeds_what_the_engine_computes(
    max_num_seqs: int, kv_tokens: int, lengths: list[int]
) -> None:
    capacity = Capacity(max_num_seqs, kv_tokens, 32768)
    before = capacity.requests
    for length in lengths:
        capacity.record(length)
        assert before <= capacity.requests <= max(1, int(max_num_seqs * 1.1))
        before = capacity.requests


def test_capacity_grows_where_samples_turn_out_short_and_not_where_they_are_long() -> None:
    short, long = Capacity(256, 74_000, 512), Capacity(256, 74_000, 512)
    assert short.requests == long.requests == 158
    for _ in range(200):
        short.record(240)
        long.record(512)
    assert short.requests == 265, "240 of 306 tokens, the mean with the assumption"
    assert long.requests == 158
