"""The registry of engines: complete, strict about unknown kinds, and stable in its identities."""

import asyncio
import json
from pathlib import Path
from typing import get_args

import pytest

from reasonray import engines, models
from reasonray.config import EndpointEngine, Sampling, ScriptedEngine, UserError, VLLMEngine
from reasonray.config.engines import Engine
from reasonray.engines.scripted import Scripted
from reasonray.pipeline import refuse_unknown_names
from tests.factories import a_minimal_config

ENDPOINT = EndpointEngine(kind="endpoint", base_url="http://127.0.0.1:9/v1", extra_body={"b": 1, "a": "x"})


def a_launch(directory: Path | None = None) -> engines.Launch:
    return engines.Launch("m", directory, gpus=0, pipeline=1, spread=False, seed=0)


def test_every_kind_that_can_be_configured_has_an_engine() -> None:
    sections = get_args(get_args(Engine)[0])
    assert {get_args(section.model_fields["kind"].annotation)[0] for section in sections} == set(engines.ENGINES)


def test_an_unknown_kind_is_an_error_and_not_some_other_engine() -> None:
    unknown = ScriptedEngine.model_construct(kind="sglang")
    message = r"engine\.kind = 'sglang': no such engine; use one of vllm, endpoint, batch, recorded, scripted"
    with pytest.raises(UserError, match=message):
        engines.identity(unknown, None)
    with pytest.raises(UserError, match=message):
        engines.needs_weights(unknown)
    with pytest.raises(UserError, match=message):
        engines.check_sampling(unknown, Sampling())
    with pytest.raises(UserError, match=message):
        asyncio.run(engines.start(unknown, a_launch()))


def test_identities_are_those_in_the_fingerprints_of_existing_runs(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 32}))
    assert engines.first_identity(ScriptedEngine(kind="scripted", correct=0.9), None) == "scripted"
    assert engines.first_identity(ENDPOINT, None) == (
        'endpoint http://127.0.0.1:9/v1 {"api": "chat", "extra_body": {"a": "x", "b": 1}, "tokenizer": null}'
    )
    assert engines.first_identity(VLLMEngine(), tmp_path) == models.identity(tmp_path) == "2110e92ec99ce73d4bb8"
    assert engines.identity(VLLMEngine(), tmp_path) == f"2 {models.content_identity(tmp_path)}"
    assert engines.identity(VLLMEngine(), tmp_path) == "2 20bbebf81fe0657e2f15"
    assert [engines.identity(engine, None) for engine in (ENDPOINT, ScriptedEngine(kind="scripted"))] == [
        "2 endpoint",
        "2 scripted",
    ]


def test_only_vllm_needs_the_weights_on_its_machine() -> None:
    sections = (VLLMEngine(), ENDPOINT, ScriptedEngine(kind="scripted"))
    assert [engines.needs_weights(section) for section in sections] == [True, False, False]


def test_a_scripted_engine_starts_without_a_model() -> None:
    assert isinstance(asyncio.run(engines.start(ScriptedEngine(kind="scripted"), a_launch())), Scripted)


def test_a_misspelt_field_of_a_servers_request_is_refused_and_an_unknown_one_passes() -> None:
    with pytest.raises(UserError, match=r"sampling\.extra: there is no 'logit_bais'; did you mean logit_bias\?"):
        engines.check_sampling(ENDPOINT, Sampling(extra={"logit_bais": {}}))
    with pytest.raises(UserError, match=r"engine\.extra_body: there is no 'reasoning_efort'"):
        engines.check_sampling(ENDPOINT.model_copy(update={"extra_body": {"reasoning_efort": "low"}}), Sampling())
    engines.check_sampling(ENDPOINT, Sampling(extra={"mirostat": 2, "logit_bias": {}}))


def test_every_model_of_a_configuration_is_checked_before_anything_starts(tmp_path: Path) -> None:
    wrong = {"model": "m", "engine": ENDPOINT.model_dump(), "sampling": {"extra": {"min_tokns": 3}}}
    for changes in (
        {"teachers": [wrong]},
        {"student": wrong},
        {"evaluation": {"arms": [wrong | {"name": "peer"}]}},
        {"checking": {"judge": wrong}},
        {"curation": {"labeller": wrong}},
    ):
        with pytest.raises(UserError, match="did you mean min_tokens"):
            refuse_unknown_names(a_minimal_config(tmp_path, **changes))
