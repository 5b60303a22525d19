"""Answers of servers: whatever JSON a server sends is read, or is no completion; text is never lost or unstorable."""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.engines.answers import Answer, NoCompletion, read_answer
from reasonray.engines.protocol import Completion
from reasonray.records import Finish, Outcome, Verdict
from reasonray.store.schema import rollouts_to_table, table_to_rollouts
from tests.factories import a_rollout


def chat(message: Any, reason: Any = "stop") -> dict[str, Any]:
    return {"choices": [{"message": message, "finish_reason": reason}], "usage": {"completion_tokens": 3}}


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": "42."}, "42."),
        ({"content": None}, ""),
        ({"content": [{"type": "text", "text": "4"}, {"type": "text", "text": "2."}]}, "42."),
        ({"content": ["4", "2."]}, "42."),
        ({"content": {"type": "text", "text": {"value": "42."}}}, "42."),
        ({"content": None, "refusal": "I will not."}, "I will not."),
        ("42.", "42."),
        ({"content": "42.", "reasoning_content": "6 x 7"}, "<think>\n6 x 7\n</think>\n\n42."),
        ({"content": "42.", "reasoning": "6 x 7", "reasoning_content": None}, "<think>\n6 x 7\n</think>\n\n42."),
        ({"content": None, "reasoning": "6 x"}, "<think>\n6 x\n</think>\n\n"),
        (
            {"content": "42.", "reasoning_details": [{"type": "reasoning.text", "text": "6 "}, {"text": "x 7"}]},
            "<think>\n6 x 7\n</think>\n\n42.",
        ),
        ({"content": "42.", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, "42."),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "6 x 7"}]}, {"text": "42."}]},
            "<think>\n6 x 7\n</think>\n\n42.",
        ),
        ({"content": "42.", "reasoning": "<think>\n6 x 7\n</think>"}, "<think>\n6 x 7\n</think>\n\n42."),
        ({"content": "<think>6 x 7</think>42.", "reasoning": "6 x 7"}, "<think>6 x 7</think>42."),
        ({"content": "</think>\n\n42.", "reasoning": "6 x 7"}, "<think>\n6 x 7\n</think>\n\n42."),
    ],
)
def test_content_and_reasoning_of_every_shape_become_one_text(message: Any, text: str) -> None:
    assert read_answer(chat(message)).text == text


@pytest.mark.parametrize(
    ("reason", "finish"),
    [(reason, Finish.STOP) for reason in ("stop", "eos", "end_turn", "STOP", "stop_sequence", None, "", 7)]
    + [(reason, Finish.LENGTH) for reason in ("length", "max_tokens", "MAX_TOKENS", "model_length")]
    + [(reason, Finish.ERROR) for reason in ("content_filter", "tool_calls", "insufficient_system_resource")],
)
def test_finish_reasons_of_every_server_are_known(reason: Any, finish: Finish) -> None:
    answer = read_answer(chat({"content": "x"}, reason))
    assert answer.finish(3, 16)[0] is finish
    assert bool(answer.finish(3, 16)[1]) == (finish is Finish.ERROR)


def test_without_a_finish_reason_the_number_of_tokens_decides() -> None:
    answer = Answer("x", 1, 16, None)
    assert [answer.finish(tokens, 16)[0] for tokens in (15, 16)] == [Finish.STOP, Finish.LENGTH]


ANY_TEXT = st.text(st.characters(exclude_categories=()))
"""Lone surrogates and NUL included."""
_FIELDS = (
    *("choices", "message", "content", "text", "type", "reasoning", "reasoning_details", "thinking"),
    *("usage", "prompt_tokens", "completion_tokens", "finish_reason", "error"),
)
FIELDS = st.sampled_from(_FIELDS)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELDS | ANY_TEXT, inner, max_size=5),
    max_leaves=25,
)


def has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def stored_and_read_back(answer: Answer) -> str:
    finish, error = answer.finish(answer.completion_tokens or 0, 16)
    completion = Completion(answer.text, finish, answer.prompt_tokens or 0, answer.completion_tokens or 0, error)
    verdict = Verdict(outcome=Outcome.WRONG, detail=completion.error)
    rollout = a_rollout(completion=completion.text, completion_tokens=completion.completion_tokens, verdict=verdict)
    (read,) = table_to_rollouts(rollouts_to_table([rollout]))
    assert read.completion == completion.text
    return read.completion


@settings(deadline=None)
@given(ANY_JSON)
def test_an_answer_of_any_shape_is_read_or_is_no_completion(document: Any) -> None:
    with suppress(NoCompletion):
        stored_and_read_back(read_answer(document))


@settings(deadline=None)
@given(ANY_TEXT, ANY_JSON, ANY_JSON)
def test_a_text_survives_whatever_comes_with_it(text: str, usage: Any, reason: Any) -> None:
    choice = {"message": {"content": text, "role": reason}, "finish_reason": reason, "logprobs": usage}
    stored = stored_and_read_back(read_answer({"choices": [choice, usage], "usage": usage}))
    assert stored == text or has_surrogates(text)
    assert len(stored) >= len(text) / 2


@settings(deadline=None)
@given(ANY_TEXT, ANY_TEXT, st.integers(), st.integers())
def test_whatever_an_engine_writes_can_be_stored(text: str, error: str, prompt_tokens: int, tokens: int) -> None:
    completion = Completion(text, Finish.STOP, prompt_tokens, tokens, error, opening=text)
    for written in (completion.text, completion.error, completion.opening):
        written.encode()
    assert 0 <= completion.prompt_tokens < 2**31
    assert 0 <= completion.completion_tokens < 2**31
    assert completion.text == text or has_surrogates(text)
