"""Measures of small texts are those that one counts by hand."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.curation.behaviours import annotate, annotate_table
from reasonray.curation.measures import (
    MEASURES,
    code_share,
    compression_ratio,
    failed_branch_fraction,
    foreign_share,
    measure_table,
    ngram_loops,
    reasoning_format,
)
from reasonray.curation.text import segment_words
from reasonray.prompts import split_reasoning
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_rollout

_PIECES = st.sampled_from(
    [
        "Wait, ",
        "that's wrong. ",
        "So 4. ",
        "Step 2: ",
        "\n\n",
        "```",
        "<think>",
        "</think>",
        "шесть ",
        "六",
        "é ",
        "π",
        "και αν ",
        "சமம் ",
    ]
)
TEXTS = st.lists(st.one_of(_PIECES, st.text(max_size=6)), max_size=40).map("".join)


def _retracted(completion: str) -> float:
    spans = annotate(completion, "").spans
    changes, goals = (
        [span.start for span in spans if span.behaviour == behaviour] for behaviour in ("backtracking", "subgoals")
    )
    return failed_branch_fraction(completion, changes, goals)


@pytest.mark.parametrize(
    ("completion", "share"),
    [
        ("<think>2 + 2 = 4. So 4.</think> 4", 0),
        ("<think>2 + 2 = 5. Wait, that's wrong. It is 4. So 4.</think> 4", 1 / 4),
        ("<think>So x is 3. Then 2x is 6. Wait, x is 4. Then 2x is 8.</think> 8", 2 / 4),
        ("<think>We have 3 boxes.\nEach has 5 pens. That is 18. Wait, it is 15.</think> 15", 2 / 4),
        ("<think>We have 3 boxes.\n\nThat is 18. So 18.\n\nWait, it is 15.</think> 15", 2 / 4),
        ("<think>So 3 times 9 is 32 — wait, it is 27. So 27.</think> 27", 1 / 2),
        ("<think>It is 3. Wait, it is 4. So 8. Wait, it is 5. So 10.</think> 10", 2 / 5),
        ("<think>Step 1: it is 3. Step 2: it is 9. Wait, it is 8.</think> 8", 1 / 3),
        ("<think>Wait, what is asked? Only 4.</think> 4", 0),
        ("It is 3. Wait, it is 4.", 1 / 2),
        ("<think>It is 3.</think> Wait, it is 4.", 0),
        ("", 0),
    ],
)
def test_a_change_of_mind_takes_back_the_branch_before_it(completion: str, share: float) -> None:
    assert _retracted(completion) == pytest.approx(share)


def test_the_format_and_the_steps_of_the_reasoning_are_those_of_the_answer_from_its_beginning() -> None:
    cut = a_rollout("We add. Then we take 6 * 7.", opening="<think>\n")
    closed = a_rollout("We add.\n</think>\n\n42", opening="<think>\n")
    table = measure_table(annotate_table(rollouts_to_table([cut, closed])))
    assert table["annotation_reasoning_format"].to_pylist() == ["broken", "tags"]
    assert table["annotation_num_steps"].to_pylist() == [2, 1], "sentences of the reasoning, which never ends"


@pytest.mark.parametrize("opening", ["", "<think>\n"])
def test_spans_are_places_in_the_completion_whatever_the_prompt_opened(opening: str) -> None:
    text = "We get 41. Wait, that's wrong. 42\n</think>\n\n42"
    table = annotate_table(rollouts_to_table([a_rollout(text, opening=opening)]))
    spans = table["annotation_spans"].to_pylist()[0]
    assert [text[span["start"] : span["end"]] for span in spans if span["behaviour"] == "backtracking"]
    assert spans == [
        {"behaviour": span.behaviour, "start": span.start, "end": span.end}
        for span in annotate(text, "What is 6 * 7?", opening).spans
    ]


@given(TEXTS)
def test_the_failed_branch_fraction_is_a_share_and_zero_without_backtracking(completion: str) -> None:
    share = _retracted(completion)
    assert 0 <= share <= 1
    if not annotate(completion, "").backtracking:
        assert share == 0


@given(st.lists(TEXTS, max_size=5))
@settings(deadline=None)
def test_a_table_is_measured_like_its_texts(completions: list[str]) -> None:
    measured = measure_table(pa.table({"completion": pa.array(completions, pa.large_string())}))
    assert measured["annotation_foreign_share"].to_pylist() == [foreign_share(text) for text in completions]
    spaced = pa.chunked_array([pa.array(map(segment_words, completions), pa.large_string())])
    assert np.all(np.array(measured["annotation_ngram_loop"].to_pylist()) >= ngram_loops(spaced))


def test_the_share_of_another_script_counts_letters() -> None:
    assert foreign_share("abcd 六六") == pytest.approx(2 / 6)
    assert foreign_share("Let α = π/6, naïve café") == 0


@pytest.mark.parametrize(
    "words",
    ["ஆறு பெருக்கல் ஏழு", "ექვსი გამრავლებული", "վեց բազմապատկած", "ছয় গুণ সাত", "έξι επτά ίσον", "ስድስት ጊዜ ሰባት", "ཞེས་བྱ་བ"],
)
def test_every_script_is_recognised(words: str) -> None:
    assert foreign_share(f"<think> {words} </think>") == 0
    assert 0.3 < foreign_share(f"<think> let us multiply {words} </think>") < 0.7
    assert foreign_share(f"<think> {words} и так далее </think>") > 0.2


@given(
    st.sampled_from(
        ["在三角形{}中，作高求面积。", "삼각형 {}에서 높이를 구한다.", "В треугольнике {} проведём высоту."]
    ),
    st.one_of(
        st.text("ABCDEFGHMNOPQ", min_size=3, max_size=8),
        st.sampled_from(["abc", "xyz", "sin", "cos", "log", "A'B'C'", "ABC-DEF"]),
    ),
)
def test_points_functions_and_products_are_no_other_language(sentence: str, name: str) -> None:
    assert foreign_share(sentence.format(name)) == 0


@pytest.mark.parametrize("words", ["THE ANSWER IS", "hence the triangle", "So ABC is right"])
def test_words_in_capitals_next_to_words_are_another_language(words: str) -> None:
    assert foreign_share(f"在三角形中作高求面积 {words} 得证") > 0.2


@given(st.text("abc123哈하ฮา", min_size=1, max_size=8), st.integers(1, 80))
@settings(deadline=None)
def test_a_loop_without_spaces_is_found_once_it_is_long(unit: str, times: int) -> None:
    measured = measure_table(pa.table({"completion": [f"We get {unit * times} so it is 4."]}))
    loops, length = measured["annotation_ngram_loop"].to_pylist()[0], len(unit) * times
    if length >= 100 + 4 * len(unit):
        assert loops >= 4
    if length < 23:
        assert loops <= 3


def test_code_and_the_response_do_not_count_as_another_language() -> None:
    assert (
        foreign_share("<think>先写一个循环。\n```python\nfor number in range(10):\n```\n</think>The answer is 45.") == 0
    )
    assert foreign_share("<think>先写一个循环。</think>The answer is 四十五") == pytest.approx(3 / 18)
    assert foreign_share("αβγ = -6, so Δ = αβ, whatever the angle θ") == 0


def _loops(*completions: str, size: int) -> list[int]:
    return ngram_loops(pa.chunked_array([completions], pa.large_string()), size).tolist()


_WORDS = st.lists(st.sampled_from(["a", "b", "é", "\u00a0"]), max_size=60)


@given(st.lists(_WORDS, max_size=6), st.integers(1, 24), st.sampled_from([" ", "\n", " \t "]))
@settings(deadline=None)
def test_loops_agree_with_a_count_of_every_run(texts: list[list[str]], size: int, space: str) -> None:
    runs = [Counter(tuple(text[start : start + size]) for start in range(len(text) - size + 1)) for text in texts]
    completions = [f"{space}{space.join(text)}" for text in texts]
    assert _loops(*completions, size=size) == [max(counts.values(), default=0) for counts in runs]


@pytest.mark.parametrize(
    "loop",
    [
        "首先我们计算六乘以七等于四十二，然后再加上一个。",
        "หกคูณด้วยเจ็ดเท่ากับสี่สิบสองแล้วก็บวกเพิ่มเข้าไปอีกหนึ่งที่นี่ซึ่งเป็นคำตอบที่ต้องการ",
    ],
)
def test_a_loop_in_a_script_without_spaces_counts_its_iterations(loop: str) -> None:
    measured = measure_table(pa.table({"completion": ["a b c", loop * 9, f"{loop} No loop at all."]}))
    assert measured["annotation_ngram_loop"].to_pylist() in ([0, 8, 1], [0, 9, 1])


@given(st.integers(1, 9), st.integers(20, 40))
def test_a_loop_of_distinct_words_counts_its_iterations(iterations: int, size: int) -> None:
    assert _loops(" ".join(str(word) for _ in range(iterations) for word in range(size)), size=20) == [iterations]


def test_loops_compress_and_prose_does_not() -> None:
    assert compression_ratio("so we add two and two, " * 100) > 20
    assert compression_ratio("A short sentence, seen once.") < 1.1
    assert compression_ratio("") == 0


@pytest.mark.parametrize(
    ("completion", "share"),
    [("", 0), ("no code", 0), ("ab```cd```ef", 2 / 12), ("ab```cdefg", 5 / 10), ("```a``````b```", 2 / 14)],
)
def test_code_is_the_text_between_fences(completion: str, share: float) -> None:
    assert code_share(completion) == pytest.approx(share)


@pytest.mark.parametrize(
    ("completion", "kind"),
    [
        ("<think>6</think> 6", "tags"),
        ("6</think> 6", "lone close"),
        ("6", "none"),
        ("", "none"),
        ("<think>6", "broken"),
        ("Sure. <think>6</think> 6", "broken"),
        ("<think>6</think> 6 </think>", "broken"),
    ],
)
def test_the_format_names_how_reasoning_is_marked(completion: str, kind: str) -> None:
    assert reasoning_format(completion) == kind


@given(TEXTS)
def test_a_format_other_than_broken_can_be_split(completion: str) -> None:
    kind, (reasoning, response) = reasoning_format(completion), split_reasoning(completion)
    if kind == "none":
        assert (reasoning, response) == ("", completion)
    if kind == "tags":
        assert completion.lstrip() == f"<think>{reasoning}</think>{response}"
    if kind == "lone close":
        assert completion == f"{reasoning}</think>{response}"


def test_a_table_gains_every_measure_once() -> None:
    texts = ["<think>2 + 2 = 5. Wait, that's wrong. It is 4.</think> 4", "", "```x```", "六 and then"]
    table = annotate_table(rollouts_to_table([a_rollout(text, sample=n) for n, text in enumerate(texts)]))
    measured = measure_table(measure_table(table))
    assert measured.schema.equals(table.schema)
    assert measured["annotation_failed_branch_fraction"].to_pylist() == pytest.approx([1 / 3, 0, 0, 0])
    assert measured["annotation_reasoning_format"].to_pylist() == ["tags", "none", "none", "none"]
    assert [measured.schema.field(f"annotation_{name}").type for name in MEASURES] == list(MEASURES.values())


def test_without_annotations_the_failed_branch_fraction_is_null() -> None:
    measured = measure_table(pa.table({"completion": ["Wait, no."]}))
    assert measured["annotation_failed_branch_fraction"].to_pylist() == [None]
    assert measured["annotation_ngram_loop"].to_pylist() == [0]
    assert measure_table(measured.slice(0, 0)).num_rows == 0
