"""The batch engine against a local server of the batch API: every request is answered, no batch is paid for twice."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import BatchEngine, Prompt, Sampling, UserError, parse
from reasonray.engines.batch_files import BatchLine, parts, read_answers, read_state
from reasonray.engines.endpoint import Endpoint
from reasonray.engines.protocol import Completion, EngineDied, SampleRequest
from reasonray.records import Finish
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.sample import sample
from reasonray.store.run import begin_or_resume
from reasonray.store.schema import table_to_rollouts
from reasonray.store.storage import place
from tests.engines.batch_server import BatchServer, answer_all, chat_body, running
from tests.factories import a_problem, a_scripted_config


@pytest.fixture
def server() -> Iterator[BatchServer]:
    with running() as started:
        yield started


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")


def an_engine(server: BatchServer, **settings: Any) -> Endpoint:
    fast = {"gather_seconds": 0.1, "poll_seconds": 0.05}
    raw = {"kind": "batch", "base_url": server.url} | fast | settings
    return Endpoint("served", BatchEngine.model_validate(raw))


def requests(directory: Path, count: int) -> list[SampleRequest]:
    problem = a_problem("What is 2 + 3?")
    notes = place(str(directory))
    return [SampleRequest(problem, n, 1000 + n, Prompt(), Sampling(max_tokens=24), notes=notes) for n in range(count)]


def ask(engine: Endpoint, *asked: SampleRequest, seconds: float = 20) -> list[Completion | BaseException]:
    """Ask for all samples at once; those that are not answered in time end with a TimeoutError, as by a kill."""

    async def one(request: SampleRequest) -> Completion:
        async with asyncio.timeout(seconds):
            return await engine.complete(request)

    async def all_of_them() -> list[Completion | BaseException]:
        return await asyncio.gather(*map(one, asked), return_exceptions=True)

    return asyncio.run(all_of_them())


def texts(answers: list[Completion | BaseException]) -> list[str]:
    return [answer.text if isinstance(answer, Completion) else repr(answer) for answer in answers]


def test_the_requests_of_a_moment_are_one_batch_and_each_gets_its_own_answer(
    server: BatchServer, tmp_path: Path
) -> None:
    answers = ask(an_engine(server), *requests(tmp_path, 5))
    (batch,) = server.batches
    lines = server.requests(batch)
    assert texts(answers) == [f"answer to {line['custom_id']}" for line in lines]
    assert len(set(texts(answers))) == 5
    assert {line["url"] for line in lines} == {"/v1/chat/completions"} == {server.batches[batch]["endpoint"]}
    assert lines[0]["body"]["messages"][-1]["content"].count("2 + 3") == 1
    assert lines[0]["body"]["model"] == "served"
    assert all(isinstance(answer, Completion) and answer.completion_tokens == 3 for answer in answers)


def test_a_sample_that_is_asked_for_twice_at_once_is_paid_for_once(server: BatchServer, tmp_path: Path) -> None:
    asked = requests(tmp_path, 2)
    answers = texts(ask(an_engine(server), *asked, *asked))
    assert answers[:2] == answers[2:]
    assert [len(server.requests(batch)) for batch in server.batches] == [2]


def test_a_request_that_is_cancelled_before_it_is_sent_is_not_sent(server: BatchServer, tmp_path: Path) -> None:
    engine = an_engine(server, gather_seconds=1.0)
    dropped, kept = requests(tmp_path, 2)

    async def ask_and_drop() -> Completion:
        task = asyncio.create_task(engine.complete(dropped))
        await asyncio.sleep(0.1)
        task.cancel()
        return await engine.complete(kept)

    assert asyncio.run(ask_and_drop()).text.startswith("answer to")
    assert [len(server.requests(batch)) for batch in server.batches] == [1]


def test_a_batch_holds_no_more_requests_than_allowed(server: BatchServer, tmp_path: Path) -> None:
    ask(an_engine(server, batch_requests=2), *requests(tmp_path, 5))
    assert sorted(len(server.requests(batch)) for batch in server.batches) == [1, 2, 2]


def test_whoever_asks_again_after_a_kill_gets_the_answers_of_the_batch_that_was_sent(
    server: BatchServer, tmp_path: Path
) -> None:
    server.is_open = True
    asked = requests(tmp_path, 4)
    assert {type(answer) for answer in ask(an_engine(server), *asked, seconds=1)} == {TimeoutError}
    server.is_open = False
    answers = ask(an_engine(server), *asked)
    assert len(server.batches) == 1
    assert all(text.startswith("answer to") for text in texts(answers))
    ask(an_engine(server), *asked)
    assert len(server.batches) == 1, "answers that were not committed are read again"


def test_a_batch_whose_id_was_not_noted_is_found_in_the_servers_list(server: BatchServer, tmp_path: Path) -> None:
    asked = requests(tmp_path, 3)
    ask(an_engine(server), *asked)
    for noted in (tmp_path / "batches").glob("*.batch"):
        noted.unlink()
    assert all(text.startswith("answer to") for text in texts(ask(an_engine(server), *asked)))
    assert len(server.batches) == 1


def test_a_batch_that_was_noted_and_never_sent_is_sent(server: BatchServer, tmp_path: Path) -> None:
    asked = requests(tmp_path, 3)
    ask(an_engine(server), *asked)
    server.batches.clear()
    for noted in (tmp_path / "batches").glob("*.batch"):
        noted.unlink()
    assert all(text.startswith("answer to") for text in texts(ask(an_engine(server), *asked)))
    assert len(server.batches) == 1


def test_what_an_expired_batch_leaves_out_is_sent_again_and_nothing_else(server: BatchServer, tmp_path: Path) -> None:
    asked = requests(tmp_path, 4)
    late = {BatchLine.of(1003, "", {}).custom_id[:16]}
    server.status = "expired"

    def answer(line: dict[str, Any]) -> tuple[int, Any] | None:
        return None if len(server.batches) == 1 and line["custom_id"][:16] in late else answer_all(line)

    server.answer = answer
    assert all(text.startswith("answer to") for text in texts(ask(an_engine(server), *asked)))
    assert [len(server.requests(batch)) for batch in server.batches] == [4, 1]


def test_batches_that_expire_again_and_again_end_the_engine_with_the_reason(
    server: BatchServer, tmp_path: Path
) -> None:
    server.status, server.answer = "expired", lambda line: None
    (died,) = ask(an_engine(server, max_retries=1), *requests(tmp_path, 1))
    assert isinstance(died, EngineDied)
    assert "batch_expired" in str(died)
    assert len(server.batches) == 2


def test_a_request_that_the_server_rejects_is_data(server: BatchServer, tmp_path: Path) -> None:
    server.answer = lambda line: (400, {"error": {"message": "the prompt is too long"}})
    (refused,) = ask(an_engine(server), *requests(tmp_path, 1))
    assert isinstance(refused, Completion)
    assert refused.finish is Finish.ERROR
    assert "the prompt is too long" in refused.error
    assert len(server.batches) == 1


def test_a_server_with_other_names_for_parameters_is_asked_in_its_own(server: BatchServer, tmp_path: Path) -> None:
    def answer(line: dict[str, Any]) -> tuple[int, Any]:
        if "max_tokens" in line["body"]:
            return 400, {"error": {"message": "use max_completion_tokens"}}
        return 200, chat_body("fine")

    server.answer = answer
    assert texts(ask(an_engine(server), *requests(tmp_path, 3))) == ["fine"] * 3
    assert len(server.batches) == 2


def test_a_batch_that_the_server_refuses_ends_the_run_with_its_reason(server: BatchServer, tmp_path: Path) -> None:
    server.status, server.errors = "failed", [{"code": "model_not_found", "message": "no such model", "line": 1}]
    (refused,) = ask(an_engine(server), *requests(tmp_path, 1))
    assert isinstance(refused, UserError)
    assert "no such model" in str(refused)


def test_a_batch_that_failed_before_the_restart_is_sent_again(server: BatchServer, tmp_path: Path) -> None:
    server.status, server.errors = "failed", [{"code": "insufficient_quota", "message": "pay first", "line": None}]
    asked = requests(tmp_path, 2)
    assert {type(answer) for answer in ask(an_engine(server), *asked)} == {UserError}
    server.status = "completed"
    assert all(text.startswith("answer to") for text in texts(ask(an_engine(server), *asked)))
    assert len(server.batches) == 2


@pytest.mark.parametrize("lost", ["batch", "files"])
def test_answers_that_the_server_keeps_no_more_are_asked_for_again(
    server: BatchServer, tmp_path: Path, lost: str
) -> None:
    asked = requests(tmp_path, 2)
    ask(an_engine(server, gather_seconds=0.1), *asked)
    if lost == "batch":
        server.batches["batch_0"] = server.batches.pop("batch_1")
    else:
        server.files = {name: file for name, file in server.files.items() if "output" not in name}
    again = ask(an_engine(server, gather_seconds=1.5), *asked)
    assert all(text.startswith("answer to") for text in texts(again))
    assert [len(server.requests(batch)) for batch in server.batches if batch == "batch_2"] == [2]


def test_a_batch_that_finds_the_queue_full_is_sent_again(server: BatchServer, tmp_path: Path) -> None:
    server.status, server.errors = "failed", [{"code": "token_limit_exceeded", "message": "queue is full"}]
    reports: list[str] = []

    def report(line: str) -> None:
        reports.append(line)
        if "full" in line:
            server.status = "completed"

    config = BatchEngine(kind="batch", base_url=server.url, gather_seconds=0.1, poll_seconds=0.05)
    answers = ask(Endpoint("served", config, report=report), *requests(tmp_path, 2))
    assert all(text.startswith("answer to") for text in texts(answers))
    assert len(server.batches) == 2
    assert any("queue full" in line for line in reports)


def test_a_server_without_batches_is_one_line(server: BatchServer, tmp_path: Path) -> None:
    engine = an_engine(server, base_url=server.url + "/elsewhere")
    (refused,) = ask(engine, *requests(tmp_path, 1))
    assert isinstance(refused, UserError)
    assert "takes no batches" in str(refused)


@pytest.mark.ray
def test_a_run_that_is_sampled_in_batches_asks_for_each_sample_once(
    server: BatchServer, ray_cluster: None, tmp_path: Path
) -> None:
    config = a_scripted_config(tmp_path, train=6, samples=3).model_dump(mode="json")
    engine = {"kind": "batch", "base_url": server.url, "gather_seconds": 1.0, "poll_seconds": 0.1}
    config["teachers"][0] |= {"model": "served", "engine": engine, "gpus": 0}
    run = begin_or_resume(parse(config))
    with ReplicaPool(run) as pool:
        sample(run, pool)
    rollouts = table_to_rollouts(run.ledger.read())
    asked = [line["custom_id"] for batch in server.batches for line in server.requests(batch)]
    assert len(rollouts) == len(asked) == len(set(asked)) == 18
    assert {rollout.completion for rollout in rollouts} == {f"answer to {custom_id}" for custom_id in asked}


LINES = st.lists(st.binary(min_size=1, max_size=40).map(lambda content: BatchLine(content.hex(), content)))


@given(LINES, st.integers(1, 5), st.floats(1, 100))
def test_parts_hold_every_line_once_in_order_within_the_limits(lines: list[BatchLine], most: int, size: float) -> None:
    split = list(parts(lines, most, size))
    assert [line for part in split for line in part] == lines
    assert all(1 <= len(part) <= most for part in split)
    assert all(len(part) == 1 or sum(len(line.content) for line in part) <= size for part in split)


KEYS = st.sampled_from(["status", "errors", "data", "custom_id", "response", "request_counts", "completed"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner)
)


@given(JSON)
def test_whatever_a_server_sends_is_read_without_an_error(document: Any) -> None:
    read_state(document)
    read_answers(json.dumps(document).encode() + b'\n{"custom_id": "a", "response": {"status_code": 200')


def test_a_custom_id_changes_with_the_sample_and_with_what_is_asked() -> None:
    line = BatchLine.of(1, "/completions", {"prompt": "a"})
    assert line.custom_id == BatchLine.of(1, "/completions", {"prompt": "a"}).custom_id
    others = [BatchLine.of(2, "/completions", {"prompt": "a"}), BatchLine.of(1, "/completions", {"prompt": "b"})]
    assert line.custom_id not in {other.custom_id for other in others}
    assert replace(line, content=b"").custom_id == line.custom_id
