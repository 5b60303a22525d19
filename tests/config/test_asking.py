"""Asking in several ways: prompts and temperatures in turn, a prompt per source."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Config, ConfigError, Prompt, Sampling, parse
from reasonray.config.models import Asking
from reasonray.store.compatibility import incompatibility
from tests.factories import a_minimal_config, a_scripted_config

ONE, TWO, THREE = (Prompt(template=f"{number}: {{question}}") for number in (1, 2, 3))


@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 4))
def test_every_way_is_used_alike(prompts: int, temperatures: int, times: int) -> None:
    asked = tuple(Prompt(template=f"{number}: {{question}}") for number in range(prompts))
    asking = Asking(asked, tuple(number / 10 for number in range(temperatures)))
    used = [
        (asking.prompt("s", sample).template, asking.sampling(Sampling(), sample).temperature)
        for sample in range(times * asking.ways)
    ]
    assert len(set(used)) == asking.ways
    assert {used.count(way) for way in used} == {times}
    numbers = [asking.prompt_number("s", sample) for sample in range(len(used))]
    assert [asked[number].template for number in numbers] == [template for template, _ in used]


def test_a_source_may_have_its_own_prompt() -> None:
    asking = Asking((ONE, TWO), by_source={"code": THREE})
    assert [asking.prompt("code", sample) for sample in range(3)] == [THREE] * 3
    assert [asking.prompt("math", sample) for sample in range(3)] == [ONE, TWO, ONE]


def test_one_prompt_has_the_identity_that_stored_rollouts_have() -> None:
    assert Asking((ONE,)).identity() == ONE.model_dump_json()
    assert "reasoning_tags" not in ONE.model_dump_json(), "a prompt of earlier versions keeps its identity"
    identities = [
        Asking((ONE,)).identity(),
        Asking((ONE, TWO)).identity(),
        Asking((TWO, ONE)).identity(),
        Asking((ONE,), (0.5,)).identity(),
        Asking((ONE,), by_source={"code": TWO}).identity(),
    ]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("teacher", "policy", "message"),
    [
        ({"prompts": [{}, {}]}, {"samples": 3}, "policy.samples = 3 would use the 2 prompts and temperatures"),
        ({"temperatures": [0.5, 1.0], "prompts": [{}, {}]}, {"samples": 6}, "make it a multiple of 4"),
        ({"prompts": [{}], "prompt": {"system": "s"}}, {}, "has both prompt and prompts"),
        ({"temperatures": [0.5], "sampling": {"temperature": 0.7}}, {}, "has both sampling.temperature"),
        ({"prompt_by_source": {"nowhere": {}}}, {}, "no source is called 'nowhere'; there are generated"),
        ({"share": "unsolved"}, {}, "no teacher comes before it"),
        ({"share": "solved"}, {}, "share"),
    ],
)
def test_a_mistake_is_one_line(
    tmp_path: Path, teacher: dict[str, object], policy: dict[str, object], message: str
) -> None:
    raw = a_minimal_config(tmp_path).model_dump(mode="json", exclude_unset=True)
    raw["teachers"][0] |= teacher
    raw["policy"] = {"kind": "fixed"} | policy
    with pytest.raises(ConfigError, match=message):
        parse(raw)


def test_a_stored_configuration_is_read_again(tmp_path: Path) -> None:
    raw = a_minimal_config(tmp_path).model_dump(mode="json", exclude_unset=True)
    raw["teachers"][0] |= {"prompts": [{}, {"system": "s"}], "temperatures": [0.5, 1.0]}
    config = parse(raw)
    assert parse(config.model_dump(mode="json")) == config


def test_teachers_that_write_alike_must_share_no_problem(tmp_path: Path) -> None:
    raw = a_minimal_config(tmp_path).model_dump(mode="json", exclude_unset=True)
    one, two = raw["teachers"][0] | {"name": "one"}, raw["teachers"][0] | {"name": "two"}
    with pytest.raises(ConfigError, match="teachers one and two ask the same model in the same way"):
        parse(raw | {"teachers": [one, two]})
    parse(raw | {"teachers": [one | {"share": 0.5}, two | {"share": 0.5}]})
    parse(raw | {"teachers": [one, two | {"sampling": {"temperature": 0.7}}]})
    parse(raw | {"teachers": [one, two | {"model": "another"}]})


AMBIGUOUS = [["[THINK]"], ["", "[/THINK]"], ["<t>", "<t>"], ["t>", "</t>"], ["a", "b", "c"], "[THINK]"]


@pytest.mark.parametrize("tags", AMBIGUOUS)
def test_tags_that_cannot_be_told_apart_are_refused(tmp_path: Path, tags: Any) -> None:
    with pytest.raises(ConfigError, match=r"teachers\.0\.prompt\.reasoning_tags"):
        with_tags(tmp_path, tags)


def test_tags_are_part_of_what_is_asked_and_no_prompt_of_a_run_gets_others(tmp_path: Path) -> None:
    before, after = a_scripted_config(tmp_path), with_tags(tmp_path, ["[THINK]", "[/THINK]"])
    identities = {config.teachers[0].asking.identity() for config in (before, after)}
    assert len(identities) == 2
    assert parse(after.model_dump(mode="json")) == after
    reason = incompatibility(before.model_dump(mode="json"), after.model_dump(mode="json"))
    assert "reasoning_tags" in reason
    with pytest.raises(ConfigError, match="logprobs stores tokens as they were sampled"):
        with_tags(tmp_path, ["[THINK]", "[/THINK]"], logprobs=True)


def with_tags(root: Path, tags: Any, **sampling: Any) -> Config:
    raw = a_scripted_config(root).model_dump(mode="json")
    raw["teachers"][0]["prompt"] |= {"reasoning_tags": tags}
    raw["teachers"][0]["sampling"] |= sampling
    return parse(raw)
