"""Curated rows → tokenised examples: the prompt as it is sampled, the completion's own text, and one stop token.

The answer is tokenised as the teacher's prompt opened it and the teacher wrote it. It is never rendered through the
chat template again, which would drop or double its reasoning. What the student's own prompt opens of it is not
repeated. Every example is checked to teach the whole text and then the token to stop at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from transformers import AutoTokenizer

from reasonray import models
from reasonray.config import Student
from reasonray.errors import UserError
from reasonray.models.documents import read_document
from reasonray.prompts import FALLBACK_DATE, Message, continuation, opening, prompt_ids, prompt_text, whole_answer
from reasonray.store.storage import Place
from reasonray.training.examples import Example, write

_COLUMNS = ("id", "prompt", "completion_text")
_WEIGHTS = "loss_weights"
_SAMPLED = ("opening", "token_ids", "logprobs", "advantage")
"""Columns of samples for policy gradients."""
_REASONING_TAG = re.compile(r"[<\[]/?(\w+:)?(think|thinking|thought)[>\]]", re.IGNORECASE)
"""Control tokens that may be part of an answer."""


class Span(TypedDict):
    """A part of a completion and the loss weight of its tokens."""

    begin: int
    """Its first character."""
    end: int
    """The character after its last one."""
    weight: float
    """0 to leave the tokens out; negative to make them less likely."""


class RefusedExample(Exception):
    """An example that would not teach its text and one stop token. It is left out and counted, like any bad row."""


def stop_token(directory: Path, tokenizer: Any) -> int:
    """Return the id of the token that ends an answer.

    Where generation stops at several tokens, it is the one that the chat template writes after an answer.

    Args:
        directory: of the model.
        tokenizer: of the model.

    Raises:
        UserError: the model names no token to stop at.
    """
    eos: Any = None
    for file in (directory / "generation_config.json", directory / "config.json"):
        if eos is None and file.exists():
            eos = read_document(file).get("eos_token_id")
    stops = eos if isinstance(eos, list) else [eos] if eos is not None else []
    if not stops and tokenizer.eos_token_id is not None:
        stops = [tokenizer.eos_token_id]
    if not stops:
        raise UserError(
            f"model {directory.name}: no eos_token_id in generation_config.json; set one, it ends an answer"
        )
    written = _ids_after_an_answer(tokenizer) if tokenizer.chat_template and len(stops) > 1 else []
    return int(next((token for token in written if token in stops), stops[0]))


def _ids_after_an_answer(tokenizer: Any) -> list[int]:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition("answer")[2]
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def tokenise(
    tokenizer: Any,
    turns: Sequence[Message],
    template_args: Mapping[str, Any],
    completion: str,
    stop: int,
    *,
    id: str,
    today: date = FALLBACK_DATE,
    spans: Sequence[Span] | None = None,
) -> Example:
    """Return the example of a prompt and a completion.

    Args:
        tokenizer: of the student.
        turns: the prompt.
        template_args: further arguments of the chat template.
        completion: the teacher's answer, with what the teacher's prompt opened of it.
        stop: id of the token that ends an answer.
        id: of the example.
        today: the date for chat templates that write it.
        spans: parts of the completion with their loss weights, in order; what is in none has weight 0. None if each
            token counts once.

    Raises:
        UserError: the chat template refuses the prompt.
        RefusedExample: the target tokens would not be exactly the text and then, once, the stop token, or the spans
            are not in order or give no weight.
    """
    chat = tokenizer, turns, template_args, today
    try:
        text = continuation(opening(*chat), whole_answer("", completion))
    except ValueError as error:
        raise RefusedExample(f"example {id}: {error}; set student.prompt.template_args so that they agree") from None
    prompt = prompt_ids(*chat)
    if not prompt or not text:
        raise RefusedExample(f"example {id}: the {'completion' if prompt else 'prompt'} is empty")
    target = _target(tokenizer, prompt, prompt_text(*chat), text)
    if target is None:
        raise RefusedExample(
            f"example {id}: the student's tokenizer does not give the completion's text back as it was"
        )
    if stop in target:
        raise RefusedExample(f"example {id}: the completion's text holds the stop token {tokenizer.decode([stop])!r}")
    if control := _control_tokens(tokenizer) & set(target):
        name = tokenizer.decode([min(control)])
        raise RefusedExample(f"example {id}: the completion's text holds the control token {name!r}")
    weights = None
    if spans is not None:
        begins = _begins(tokenizer, prompt_text(*chat), text, target)
        if begins is None:
            raise RefusedExample(f"example {id}: the student's tokenizer does not say where tokens begin in the text")
        removed = len(completion) - len(text)  # the prompt opens some of the completion, or the completion lacks some
        weights = token_weights(spans, [begin + removed for begin in begins], len(completion), id=id)
    return Example(id, [*prompt, *target, stop], len(prompt), weights)


def tokenise_sample(
    tokenizer: Any,
    turns: Sequence[Message],
    template_args: Mapping[str, Any],
    row: Mapping[str, Any],
    *,
    today: date = FALLBACK_DATE,
) -> Example:
    """Return the example of a sample whose tokens, as they were sampled, are to become likelier or less likely.

    Args:
        tokenizer: of the student.
        turns: the prompt.
        template_args: further arguments of the chat template.
        row: of curation.policy_samples.POLICY_SCHEMA.
        today: the date for chat templates that write it.

    Raises:
        UserError: the chat template refuses the prompt.
        RefusedExample: the tokens are not those of the text in the student's tokenizer, the student's prompt opens
            another answer, or tokens and log-probabilities do not belong together.
    """
    id, chat, sampled = row["id"], (tokenizer, turns, template_args, today), row["completion_text"]
    ids, logprobs = list(row["token_ids"]), [float(value) for value in row["logprobs"]]
    if len(ids) != len(logprobs) or not ids or not all(map(math.isfinite, logprobs)):
        raise RefusedExample(f"example {id}: {len(ids)} tokens, {len(logprobs)} log-probabilities, or one not finite")
    try:
        text = continuation(opening(*chat), whole_answer(row["opening"], sampled))
    except ValueError as error:
        raise RefusedExample(f"example {id}: {error}; set student.prompt.template_args so that they agree") from None
    if text != sampled:
        raise RefusedExample(f"example {id}: the student's prompt opens the answer otherwise than the sampler's did")
    prompt = prompt_ids(*chat)
    whole = _decoded(tokenizer, prompt) + sampled
    # The last token ends the answer, or is the one in which a stop string ends.
    if not (
        whole.startswith(_decoded(tokenizer, prompt + ids[:-1])) and _decoded(tokenizer, prompt + ids).startswith(whole)
    ):
        raise RefusedExample(f"example {id}: in the student's tokenizer the sampled tokens are not the sampled text")
    return Example(id, [*prompt, *ids], len(prompt), [row["advantage"]] * len(ids), logprobs)


def token_weights(spans: Sequence[Span], begins: Sequence[int], length: int, *, id: str) -> list[float]:
    """Return the loss weight of each token of a completion, and of the stop token, which counts as the last character.

    Args:
        spans: parts of the completion with their weights.
        begins: the character at which each token begins; a token has the weight of that character.
        length: characters of the completion.
        id: of the example.

    Raises:
        RefusedExample: the spans are not in order, reach beyond the completion, or give no token a weight.
    """
    weight_of = np.zeros(length)
    end = 0
    for span in spans:
        if not end <= span["begin"] < span["end"] <= length or not math.isfinite(span["weight"]):
            raise RefusedExample(
                f"example {id}: its loss weights are not finite numbers for parts of its {length} characters in order"
            )
        end = span["end"]
        weight_of[span["begin"] : end] = span["weight"]
    weights = weight_of[np.clip([*begins, length - 1], 0, length - 1)]
    if not weights.any():
        raise RefusedExample(f"example {id}: its loss weights are all 0")
    return list(weights.astype(np.float32).tolist())


def _target(tokenizer: Any, prompt: list[int], prompt_text: str, text: str) -> list[int] | None:
    """Return the tokens that add exactly a text to a prompt, None if there are none.

    Some tokenizers put a space before a text that they encode by itself. Then the text is encoded after the prompt, or
    after a line break that is taken off again.
    """
    before = _decoded(tokenizer, prompt)

    def encoded(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    def encoded_after(beginning: list[int], text: str) -> list[int]:
        ids = encoded(text)
        return ids[len(beginning) :] if ids[: len(beginning)] == beginning else []

    def candidates() -> Iterator[list[int]]:
        yield encoded(text)
        yield encoded_after(prompt, prompt_text + text)
        yield encoded_after(encoded("\n"), "\n" + text)

    return next((ids for ids in candidates() if ids and _decoded(tokenizer, prompt + ids) == before + text), None)


def _begins(tokenizer: Any, prompt_text: str, text: str, target: list[int]) -> list[int] | None:
    """Return the character of a text at which each of its tokens begins, None if the tokenizer does not know."""
    if not tokenizer.is_fast:
        return None
    for before in ("", prompt_text, "\n"):  # as in _target
        encoded = tokenizer(before + text, add_special_tokens=False, return_offsets_mapping=True)
        if list(encoded["input_ids"][-len(target) :]) == target:
            return [begin - len(before) for begin, _ in encoded["offset_mapping"][-len(target) :]]
    return None


def _decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _control_tokens(tokenizer: Any) -> set[int]:
    """Return the ids of the tokens that steer a model, such as the header of a turn."""
    added = tokenizer.added_tokens_decoder.items()
    return {id for id, token in added if token.special and not _REASONING_TAG.fullmatch(token.content)}


def tokenise_files(
    student: Student, files: Sequence[Place], target: Path, today: date = FALLBACK_DATE
) -> tuple[list[int], list[str]]:
    """Tokenise curated rows into one file of examples; return the examples' lengths and why others were refused.

    Args:
        student: section of the configuration.
        files: parquet files with the columns id, prompt (a list of messages) and completion_text, and if examples have
            loss weights, loss_weights (a list of begin, end and weight: parts of the text by its characters); or
            samples for policy gradients, of curation.policy_samples.POLICY_SCHEMA.
        target: Arrow file to write.
        today: the date for chat templates that write it.

    Raises:
        UserError: the model is not there or has no stop token, or its prompts do not fit the completions.
    """
    directory = models.resolve(student.model, student.revision)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.chat_template = student.prompt.chat_template or tokenizer.chat_template
    stop = stop_token(directory, tokenizer)
    lengths: list[int] = []
    refused: list[str] = []

    def example_of(row: Mapping[str, Any]) -> Example:
        chat = tokenizer, row["prompt"], student.prompt.template_args
        if "advantage" in row:
            return tokenise_sample(*chat, row, today=today)
        spans = row.get(_WEIGHTS)
        return tokenise(*chat, row["completion_text"], stop, id=row["id"], today=today, spans=spans)

    def tokenised() -> Iterator[Example]:
        for file in files:
            for row in _rows(file):
                try:
                    example = example_of(row)
                except RefusedExample as reason:
                    refused.append(str(reason))
                    continue
                lengths.append(len(example.ids))
                yield example

    write(target, tokenised())
    return lengths, refused


def _rows(file: Place) -> list[dict[str, Any]]:
    """Return the rows of a file of curated examples; loss weights and samples' tokens are optional columns."""
    table = file.read_table()
    names = [name for name in (*_COLUMNS, _WEIGHTS, *_SAMPLED) if name in table.column_names]
    return list(table.select(names).to_pylist())
