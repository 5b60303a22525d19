"""Sampling parameters: their part in a rollout's identity, and the extra ones."""

import tarfile
from pathlib import Path
from typing import Any

import pytest

from reasonray.config import ConfigError, Sampling
from reasonray.records import content_hash
from reasonray.store.run import find_run
from tests.factories import a_minimal_config

ARCHIVES = sorted((Path(__file__).parents[1] / "store" / "archives").glob("schema-*.tar.gz"))


def test_keys_that_came_later_leave_the_identity_as_it_was_until_they_are_set() -> None:
    assert Sampling().identity() == (
        '{"temperature":1.0,"top_p":1.0,"top_k":-1,"min_p":0.0,"repetition_penalty":1.0,"stop":[],"seeded":true}'
    )
    later = {"min_tokens": 1, "stop_token_ids": [5], "presence_penalty": 0.1, "frequency_penalty": 0.1}
    later |= {"thinking_token_budget": 9, "repetition_detection": {"max_pattern_size": 4, "min_count": 2}}
    later |= {"extra": {"bad_words": ["x"]}}
    identities = {Sampling.model_validate({name: value}).identity() for name, value in later.items()}
    assert len(identities - {Sampling().identity()}) == len(later)


def test_neither_the_limit_nor_seeds_are_part_of_the_identity() -> None:
    assert Sampling(max_tokens=7, seeded=True).identity() == Sampling().identity()


@pytest.mark.parametrize("archive", ARCHIVES, ids=lambda path: path.name)
def test_fingerprints_of_a_stored_run_are_still_those_of_its_configuration(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as stored:
        stored.extractall(tmp_path, filter="data")
    run = find_run(str(tmp_path / "runs" / "stored"))
    # Schema 4 came after the present rule for fingerprints (sampling/fingerprints.py).
    model = ("2 scripted", "scripted", "{}") if archive.name >= "schema-4" else ("scripted", "scripted")
    assert set(run.ledger.read(["fingerprint"])["fingerprint"].to_pylist()) == {
        content_hash(*model, teacher.prompt.model_dump_json(), teacher.sampling.identity())
        for teacher in run.config.teachers
    }


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        ({"extra": {"top_k": 3}}, "sampling.extra: top_k has a key of its own; write sampling.top_k"),
        ({"extra": {"n": 3}}, "sampling.extra: n cannot be set here; the number of samples is `policy`"),
        ({"extra": {"seed": 3}}, "every sample has its own seed"),
        ({"extra": {"skip_special_tokens": True}}, "special tokens inside a completion are always kept"),
        ({"min_tokens": 9, "max_tokens": 8}, r"min_tokens \(9\) is above max_tokens \(8\)"),
        ({"presence_penalty": 3}, "presence_penalty"),
        ({"repetition_detection": {"max_pattern_size": 4, "min_count": 1}}, "min_count"),
        ({"repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 5, "min_count": 2}}, "is above"),
        ({"min_token": 3}, "did you mean min_tokens"),
    ],
)
def test_a_wrong_parameter_is_refused_by_name(sampling: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        a_minimal_config(tmp_path, teachers=[{"model": "m", "engine": {"kind": "scripted"}, "sampling": sampling}])
