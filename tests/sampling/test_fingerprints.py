"""A run keeps the fingerprints that it began with; new ones hold neither paths nor addresses."""

import shutil
from pathlib import Path
from typing import Any

from reasonray import engines
from reasonray.config import EndpointEngine, Prompt, Sampling, ScriptedEngine, VLLMEngine
from reasonray.config.engines import Engine
from reasonray.config.models import Asking
from reasonray.records import content_hash
from reasonray.sampling.fingerprints import fingerprint


def endpoint(**settings: Any) -> EndpointEngine:
    return EndpointEngine.model_validate({"kind": "endpoint", "base_url": "http://127.0.0.1:9/v1"} | settings)


def present(engine: Engine, model: str, directory: Path | None = None) -> str:
    return fingerprint(model, engine, engines.identity(engine, directory), Asking((Prompt(),)), Sampling())


def test_a_run_goes_on_by_the_rule_that_it_began_with() -> None:
    for engine in (ScriptedEngine(kind="scripted"), endpoint()):
        first = engines.first_identity(engine, None)
        asked = Prompt().model_dump_json(), Sampling().identity()
        assert fingerprint("m", engine, first, Asking((Prompt(),)), Sampling()) == content_hash("m", first, *asked)
        assert present(engine, "m") != content_hash("m", first, *asked)


def test_a_student_that_moves_with_its_run_is_the_same_writer(tmp_path: Path) -> None:
    student = tmp_path / "run" / "student"
    student.mkdir(parents=True)
    (student / "config.json").write_text("{}")
    (student / "model.safetensors").write_bytes(b"weights")
    before = present(VLLMEngine(), str(student), student)
    moved = Path(shutil.move(student, tmp_path / "elsewhere"))
    assert present(VLLMEngine(), str(moved), moved) == before
    tuned = VLLMEngine(max_num_seqs=8, max_model_len=9000, args={"gpu_memory_utilization": 0.5})
    assert present(tuned, str(moved), moved) == before
    for other in (VLLMEngine(dtype="float16"), VLLMEngine(args={"quantization": "fp8"})):
        assert present(other, str(moved), moved) != before
    (moved / "model.safetensors").write_bytes(b"others.")
    assert present(VLLMEngine(), str(moved), moved) != before


def test_a_server_may_move_and_must_serve_the_same_model_in_the_same_way() -> None:
    before = present(endpoint(), "served")
    assert present(endpoint(base_url="http://elsewhere/v1", max_retries=1), "served") == before
    others = [
        present(endpoint(), "other"),
        present(endpoint(api="completions"), "served"),
        present(endpoint(extra_body={"reasoning_effort": "high"}), "served"),
        present(endpoint(tokenizer="t"), "served"),
    ]
    assert len({before, *others}) == 5


def test_prompt_and_sampling_are_part_of_both_rules_and_the_limit_of_neither() -> None:
    engine = endpoint()
    for identity in (engines.identity(engine, None), engines.first_identity(engine, None)):
        before = fingerprint("m", engine, identity, Asking((Prompt(),)), Sampling())
        assert fingerprint("m", engine, identity, Asking((Prompt(),)), Sampling(max_tokens=7)) == before
        assert fingerprint("m", engine, identity, Asking((Prompt(system="x"),)), Sampling()) != before
        assert fingerprint("m", engine, identity, Asking((Prompt(),)), Sampling(top_k=5)) != before
