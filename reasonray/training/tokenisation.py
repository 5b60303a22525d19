"""Curated rows → tokenised examples: the prompt as it is sampled, the completion's own text, and one stop token.

The completion is tokenised as the teacher wrote it. It is never rendered through the chat template again, which would
drop or double its reasoning. Every example is checked to teach the whole text and then the token to stop at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from reasonray import models
from reasonray.config import Student
from reasonray.errors import UserError
from reasonray.prompts import REASONING_OPEN, Message, prompt_ids, prompt_text
from reasonray.store.storage import Place
from reasonray.training.examples import Example, write

_COLUMNS = ("id", "prompt", "completion_text")


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
            eos = json.loads(file.read_text()).get("eos_token_id")
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
    tokenizer: Any, turns: Sequence[Message], template_args: Mapping[str, Any], completion: str, stop: int, *, id: str
) -> Example:
    """Return the example of a prompt and a completion.

    Args:
        tokenizer: of the student.
        turns: the prompt.
        template_args: further arguments of the chat template.
        completion: the teacher's text.
        stop: id of the token that ends an answer.
        id: of the example.

    Raises:
        UserError: prompts and completions do not fit together, so no example would be right.
        RefusedExample: the target tokens would not be exactly the text and then, once, the stop token.
    """
    prompt_opens = prompt_text(tokenizer, turns, template_args).rstrip().endswith(REASONING_OPEN)
    if prompt_opens and completion.lstrip().startswith(REASONING_OPEN):
        raise UserError(
            f"example {id}: the student's prompt already ends in {REASONING_OPEN} and the completion opens it again; "
            "set student.prompt.template_args so that the chat template leaves it out"
        )
    prompt = prompt_ids(tokenizer, turns, template_args)
    target = list(tokenizer(completion, add_special_tokens=False)["input_ids"])
    if not prompt or not target:
        raise RefusedExample(f"example {id}: the {'completion' if prompt else 'prompt'} is empty")
    if stop in target:
        raise RefusedExample(f"example {id}: the completion's text holds the stop token {tokenizer.decode([stop])!r}")
    if completion not in tokenizer.decode(prompt + target, skip_special_tokens=False):
        raise RefusedExample(
            f"example {id}: the student's tokenizer does not give the completion's text back as it was"
        )
    return Example(id, [*prompt, *target, stop], len(prompt))


def tokenise_files(student: Student, files: Sequence[Place], target: Path) -> tuple[list[int], list[str]]:
    """Tokenise curated rows into one file of examples; return the examples' lengths and why others were refused.

    Args:
        student: section of the configuration.
        files: parquet files with the columns id, prompt (a list of messages) and completion_text.
        target: Arrow file to write.

    Raises:
        UserError: the model is not there or has no stop token, or its prompts do not fit the completions.
    """
    directory = models.resolve(student.model, student.revision)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    stop = stop_token(directory, tokenizer)
    lengths: list[int] = []
    refused: list[str] = []

    def tokenised() -> Iterator[Example]:
        for file in files:
            for row in file.read_table(_COLUMNS).to_pylist():
                try:
                    example = tokenise(
                        tokenizer,
                        row["prompt"],
                        student.prompt.template_args,
                        row["completion_text"],
                        stop,
                        id=row["id"],
                    )
                except RefusedExample as reason:
                    refused.append(str(reason))
                    continue
                lengths.append(len(example.ids))
                yield example

    write(target, tokenised())
    return lengths, refused
