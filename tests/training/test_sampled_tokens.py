"""Policy gradients train exactly the tokens that were sampled, or the sample is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from reasonray.config import Student
from reasonray.curation.policy_samples import POLICY_SCHEMA
from reasonray.store.storage import place
from reasonray.training.examples import read
from reasonray.training.tokenisation import RefusedExample, tokenise, tokenise_files, tokenise_sample
from tests import templates
from tests.students import write_model
from tests.templates import CONTROL_TOKENS

TURNS = [{"role": "user", "content": "What is 6 * 7?"}]


def tokenizer_with_merges(template: str = templates.CHATML) -> Any:
    """Return a tokenizer that writes "42" as one token, which a model may also sample as two."""
    alphabet, control = sorted(pre_tokenizers.ByteLevel.alphabet()), CONTROL_TOKENS[template]
    vocabulary = {name: number for number, name in enumerate([*control, *alphabet, "42"])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[("4", "2")]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(control)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token=control[-1])
    tokenizer.chat_template = template
    return tokenizer


TOKENIZER = tokenizer_with_merges()
STOP = TOKENIZER.eos_token_id
APART = TOKENIZER.convert_tokens_to_ids(["4", "2"])


def row(ids: list[int], text: str, **changes: Any) -> dict[str, Any]:
    known = {"id": "a", "opening": "", "completion_text": text, "token_ids": ids, "logprobs": [-0.5] * len(ids)}
    return known | {"advantage": -0.5} | changes


def test_tokens_that_the_tokenizer_would_write_otherwise_are_trained_as_they_were_sampled() -> None:
    example = tokenise_sample(TOKENIZER, TURNS, {}, row([*APART, STOP], "42"))
    canonical = tokenise(TOKENIZER, TURNS, {}, "42", STOP, id="a")
    assert example.ids[example.start :] == [*APART, STOP] != canonical.ids[canonical.start :]
    assert example.ids[: example.start] == canonical.ids[: canonical.start]
    assert example.weights == [-0.5] * 3
    assert example.logprobs == [-0.5] * 3


@given(
    st.lists(st.sampled_from([*TOKENIZER.convert_tokens_to_ids(["4", "2", "42", "a", "Ġ"])]), max_size=6), st.booleans()
)
def test_whatever_was_sampled_is_what_is_trained(ids: list[int], ended: bool) -> None:
    tokens = [*ids, STOP] if ended or not ids else ids
    example = tokenise_sample(TOKENIZER, TURNS, {}, row(tokens, TOKENIZER.decode(ids)))
    assert example.ids[example.start :] == tokens


@pytest.mark.parametrize(
    ("sample", "reason"),
    [
        (row([*APART, STOP], "43"), "the sampled tokens are not the sampled text"),
        (row([*APART, *APART, STOP], "42"), "the sampled tokens are not the sampled text"),
        (row([*APART, STOP], "422"), "the sampled tokens are not the sampled text"),
        (row([100_000, STOP], "42"), "the sampled tokens are not the sampled text"),
        (row([*APART, STOP], "42", logprobs=[-0.5, -0.5]), "3 tokens, 2 log-probabilities"),
        (row(APART, "42", logprobs=[-0.5, float("nan")]), "or one not finite"),
        (row(APART, "42", logprobs=[-0.5, float("-inf")]), "or one not finite"),
        (row([], ""), "0 tokens"),
        (row(APART, "42", opening="<think>\n"), "opens the answer otherwise"),
    ],
)
def test_tokens_that_are_not_those_of_the_text_are_refused(sample: dict[str, Any], reason: str) -> None:
    with pytest.raises(RefusedExample, match=reason):
        tokenise_sample(TOKENIZER, TURNS, {}, sample)


def test_a_stop_string_may_end_within_the_last_token() -> None:
    whole = TOKENIZER.convert_tokens_to_ids(["a", "42"])
    assert tokenise_sample(TOKENIZER, TURNS, {}, row(whole, "a4")).ids[-2:] == whole


def test_what_both_prompts_open_is_not_trained() -> None:
    tokenizer = tokenizer_with_merges(templates.R1_DISTILL)
    ids = tokenizer("sum</think>42", add_special_tokens=False)["input_ids"]
    for opening in ("<think>\n", ""):  # earlier versions did not record it
        example = tokenise_sample(tokenizer, TURNS, {}, row(ids, "sum</think>42", opening=opening))
        assert example.ids[example.start :] == ids


def test_samples_are_read_from_their_files_and_the_refused_are_counted(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", vocab=258)
    ids = AutoTokenizer.from_pretrained(model)("56<|im_end|>", add_special_tokens=False)["input_ids"]
    good = {"id": "good", "token_ids": ids, "completion_text": "56"}
    rows = [good, good | {"id": "bad", "completion_text": "57"}]
    shared = {"problem_id": "p", "prompt": TURNS, "opening": "", "logprobs": [-1.0] * 3, "outcome": "wrong"}
    table = pa.Table.from_pylist([shared | {"advantage": 0.25, "pass_rate": 0.5} | row for row in rows])
    columns = [table[field.name].cast(field.type) for field in POLICY_SCHEMA]
    place(tmp_path / "rows.parquet").write_table(pa.table(columns, schema=POLICY_SCHEMA))
    student = Student(model=str(model))
    lengths, refused = tokenise_files(student, [place(tmp_path / "rows.parquet")], tmp_path / "rows.arrow")
    examples = read(tmp_path / "rows.arrow")
    assert len(lengths) == len(refused) == len(examples) == 1
    assert examples[0].ids[examples[0].start :] == ids
    assert examples.target_weights.tolist() == [0.75]
    assert examples.have_logprobs
