"""Features: text hashes ignore white space, and a score is a number for each rollout."""

from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Curation, UserError
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.features import rollout_features, text_hash
from reasonray.curation.measures import measure_table
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_rollout

_WORDS = st.lists(st.sampled_from(["6", "*", "é", "二", "so"]), min_size=1, max_size=8)
_SPACE = st.sampled_from([" ", "\n\n", "\t ", ""])


@given(_WORDS, _SPACE, _SPACE)
def test_texts_that_differ_in_white_space_have_the_same_hash(words: list[str], one: str, other: str) -> None:
    assert text_hash(one.join(words)) == text_hash(f"{other}{other.join(words)}\n")


@given(_WORDS, _WORDS)
def test_texts_that_differ_in_characters_have_different_hashes(words: list[str], others: list[str]) -> None:
    assert (text_hash(" ".join(words)) == text_hash(" ".join(others))) == ("".join(words) == "".join(others))


def test_a_score_is_any_column_of_numbers_and_nothing_else_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_scores.py").write_text(
        "import numpy as np, pyarrow.compute as pc\n"
        "def column(table):\n    return pc.negate(table['completion_tokens'])\n"
        "def array(table):\n    return column(table).combine_chunks()\n"
        "def numpy(table):\n    return -table['completion_tokens'].to_numpy()\n"
        "def plain(table):\n    return column(table).to_pylist()\n"
        "def text(table):\n    return ['1'] * table.num_rows\n"
        "def nothing(table):\n    return [None] * table.num_rows\n"
        "def short(table):\n    return [1]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    table = measure_table(
        annotate_table(rollouts_to_table([a_rollout(sample=n, completion_tokens=n) for n in range(3)]))
    )
    for name in ("column", "array", "numpy", "plain"):
        features = rollout_features(table, Curation(prefer="score", score=f"my_scores:{name}"))
        assert features["score"].combine_chunks().equals(pa.array([0.0, -1.0, -2.0]))
    for name in ("text", "nothing", "short"):
        with pytest.raises(UserError, match=f"my_scores:{name} must return a number for each of 3 rollouts"):
            rollout_features(table, Curation(prefer="score", score=f"my_scores:{name}"))
