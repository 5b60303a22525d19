"""The detectors agree with labelled sentences and the tutorial's traces, and show their evidence."""

import json
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.behaviours import annotate, annotate_table
from reasonray.records import BEHAVIOURS, Annotation
from reasonray.store.schema import ROLLOUT_SCHEMA, rollouts_to_table, table_to_rollouts
from tests.factories import a_problem, a_rollout

LABELLED = [json.loads(line) for line in Path(__file__).with_name("behaviours.jsonl").read_text().splitlines()]
TRACES = [
    ("<think> Step 1: 3 * 7 = 21. Step 2: Let me verify: 7+7+7 = 21. Correct. </think>", True, False, 2),
    (
        "<think> Step 1: 5 * 3 = 18. Wait, that's wrong. 5 * 3 = 15. Let me recalculate. </think>",
        False,
        True,
        1,
    ),
    ("<think> Step 1: 2 + 2 = 4. </think>", False, False, 1),
    (
        "<think> Step 1: First, find 20% of 150. Step 2: 20% = 0.20. Step 3: 0.20 * 150 = 30. "
        "Step 4: Let me check: 10% of 150 = 15, so 20% = 30. Yes, correct. </think>",
        True,
        False,
        4,
    ),
]


@pytest.mark.parametrize(("trace", "verifies", "backtracks", "steps"), TRACES)
def test_the_tutorials_traces_are_annotated_as_the_tutorial_does(
    trace: str, verifies: bool, backtracks: bool, steps: int
) -> None:
    annotation = annotate(trace, "What is 3 * 7?")
    assert (annotation.verification > 0, annotation.backtracking > 0, annotation.num_steps) == (
        verifies,
        backtracks,
        steps,
    )


@pytest.mark.parametrize(
    "text", ["That answer is incorrect.", "The waiter came.", "They await.", "I actually like it."]
)
def test_the_tutorials_false_positives_are_not_found(text: str) -> None:
    assert annotate(text, "") == Annotation()


def test_the_labelled_sentences_are_many_and_often_hard() -> None:
    assert len(LABELLED) >= 230
    assert sum(not entry["labels"] for entry in LABELLED) >= 0.4 * len(LABELLED)
    assert len({entry["text"] for entry in LABELLED}) == len(LABELLED)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_precision_and_recall_on_labelled_sentences_are_nine_tenths_or_more(behaviour: str) -> None:
    predicted = {
        entry["text"]: getattr(annotate(entry["text"], entry.get("question", "")), behaviour) > 0 for entry in LABELLED
    }
    wanted = {entry["text"]: behaviour in entry["labels"] for entry in LABELLED}
    hits = sum(predicted[text] and wanted[text] for text in predicted)
    precision, recall = hits / sum(predicted.values()), hits / sum(wanted.values())
    print(f"{behaviour}: precision {precision:.3f}, recall {recall:.3f} on {len(LABELLED)} sentences")
    assert precision >= 0.9
    assert recall >= 0.9


def test_a_span_holds_the_words_that_show_the_behaviour() -> None:
    completion = "<think>So 5 * 3 = 18. Wait, that's wrong. Let me check: 15.</think>"
    spans = annotate(completion, "").spans
    assert [(span.behaviour, completion[span.start : span.end]) for span in spans] == [
        ("backtracking", "Wait, that's wrong"),
        ("verification", "Let me check"),
    ]


def test_code_does_not_count_even_if_its_fence_is_never_closed() -> None:
    assert annotate("```\n# Let me verify\n```\nSo 4. ```\n# Wait, that's wrong", "").spans == ()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("See `# wait, that's wrong` there.", 0),
        ("    # Wait, that's wrong\n", 0),
        ("// Wait, that's wrong\n", 0),
        ("# Wait, that's wrong\n", 1),
        ("A lone ` tick. Wait, that's wrong.\nAnother ` tick.", 1),
    ],
)
def test_comments_and_inline_code_do_not_count_but_headings_do(text: str, count: int) -> None:
    assert annotate(text, "").backtracking == count


def test_reported_speech_does_not_count() -> None:
    assert annotate('"Wait," said Ann, "that is 5." Bob claims that this is wrong.', "") == Annotation()


def test_wait_before_a_check_is_verification_and_not_backtracking() -> None:
    assert [span.behaviour for span in annotate("Wait, let me double-check: 4.", "").spans] == ["verification"]


def test_text_quoted_from_the_question_does_not_count() -> None:
    question = "Tom writes 5 * 3 = 18. Wait, that's wrong, says Ann. What is 5 * 3?"
    assert annotate(f"<think>{question} It is 15.</think>", question).backtracking == 0
    assert annotate("<think>It is 18. Wait, that's wrong. It is 15.</think>", question).backtracking == 1


def test_offsets_count_characters_of_the_raw_text() -> None:
    completion = "<think>İ 𝟛 ```x``` 🙂. Wait, no.</think>"
    (span,) = annotate(completion, "").spans
    assert completion[span.start : span.end] == "Wait"


@pytest.mark.parametrize(
    ("completion", "steps"),
    [
        ("<think>Half of 7 is 3.5 exactly. So 3.5 + 1.5 = 5.</think> 5", 2),
        ("<think>1. Add 2.\n2. Add 3.\n</think> 5", 2),
        ("<think>Some fruits, e.g. apples, cost 2. So 4!</think>", 2),
        ("<think>Step 1: add. Step 2: as in Step 1, add. Step 2: done.</think>", 2),
        ("It is half. So 4.", 0),
        ("Step 1: add. Step 2: halve.", 2),
        ("<think>Two sentences here. And cut", 2),
        ("Tag in the prompt. So 4.</think> Step 1 of the answer.", 2),
        ("<think>\n</think> 4", 0),
        ("", 0),
    ],
)
def test_numbered_steps_are_counted_else_sentences_of_the_reasoning(completion: str, steps: int) -> None:
    assert annotate(completion, "").num_steps == steps


@pytest.mark.parametrize(
    "unit", ["Wait ", "i will now ", "((((", "to get a ", "```", "\n", "that is ", "double check "]
)
def test_time_is_linear_in_the_text(unit: str) -> None:
    def seconds(size: int) -> float:
        text = unit * (size // len(unit))
        times = []
        for _ in range(3):
            begun = time.process_time()
            annotate(text, "Wait, that's wrong. Is it?")
            times.append(time.process_time() - begun)
        return min(times)

    # Quadratic time would need 16 times as long.
    assert seconds(160_000) < 9 * seconds(40_000) + 0.05


_PIECES = st.sampled_from(
    ["Wait, ", "that's wrong. ", "Let me check ", "```", "<think>", "</think>", "Step 2: ", "\n", "é🙂"]
)


@given(st.lists(st.one_of(_PIECES, st.text(max_size=8)), max_size=30).map("".join), st.text(max_size=40))
def test_counts_are_those_of_the_spans_for_any_text(completion: str, question: str) -> None:
    annotation = annotate(completion, question)
    for behaviour in BEHAVIOURS:
        spans = [span for span in annotation.spans if span.behaviour == behaviour]
        assert len(spans) == getattr(annotation, behaviour)
        assert all(0 <= span.start < span.end <= len(completion) for span in spans)
        assert all(one.end <= other.start for one, other in pairwise(spans))


def test_a_table_is_annotated_like_its_rollouts() -> None:
    rollouts = [a_rollout(trace, sample=number) for number, (trace, *_) in enumerate(TRACES)]
    table = annotate_table(rollouts_to_table(rollouts))
    assert table.schema.equals(ROLLOUT_SCHEMA, check_metadata=True)
    assert [rollout.annotation for rollout in table_to_rollouts(table)] == [
        annotate(rollout.completion, rollout.problem.question) for rollout in rollouts
    ]


def test_the_decisions_of_selection_are_kept() -> None:
    decided = Annotation(pass_rate=0.5, dropped_by="over_quota")
    table = annotate_table(rollouts_to_table([a_rollout(annotation=decided), a_rollout(sample=1)]))
    assert table["annotation_dropped_by"].to_pylist() == ["over_quota", ""]
    assert table["annotation_selected"].to_pylist() == [False, False]
    assert table["annotation_pass_rate"].to_pylist() == [0.5, None]


def test_a_table_of_texts_alone_gains_the_columns() -> None:
    texts = pa.table({"completion": ["Let me check: 4."], "problem_question": [a_problem().question]})
    assert annotate_table(texts)["annotation_verification"].to_pylist() == [1]
