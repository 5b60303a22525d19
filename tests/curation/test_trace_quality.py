"""LIMO's score prefers long traces with words of checking, exploring and connecting."""

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.trace_quality import limo


def scores(*rows: tuple[str, int]) -> list[float]:
    texts, tokens = zip(*rows, strict=True)
    return [float(score) for score in limo(pa.table({"completion": texts, "completion_tokens": tokens}))]


@given(st.lists(st.tuples(st.text(max_size=60), st.integers(0, 40_000)), min_size=1, max_size=6))
def test_a_score_is_a_share_of_one_and_each_row_has_its_own(rows: list[tuple[str, int]]) -> None:
    together = scores(*rows)
    assert all(0 <= score < 1 for score in together)
    assert together == [scores(row)[0] for row in rows]


def test_words_of_checking_exploring_and_connecting_and_length_raise_the_score() -> None:
    plain = scores(("it is four", 10))[0]
    for text in ("it is four check", "it might be four", "four since even"):
        assert scores((text, 10))[0] > plain
    assert scores(("it is four", 1000))[0] > plain
