"""Text of models and data sets cannot end the block of a prompt that holds it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from reasonray.checkers import judgement, labels
from tests.factories import a_problem

PIECES = st.sampled_from(["---", "--", "-", "———", "−−−", "\r", "\n", "\u2028", "\x85", " ", "a"])
STORED = st.lists(PIECES, max_size=9).map("".join) | st.text(max_size=40)
TEXTS = st.lists(PIECES | st.just("\ud800"), max_size=9).map("".join) | st.text(max_size=40)
RULES = re.compile("[-–—−]{3,}")


@given(STORED, STORED, TEXTS)
def test_no_answer_and_no_problem_ends_its_block_of_a_judges_question(question: str, gold: str, answer: str) -> None:
    text = judgement.question(a_problem(question, answer=gold), None, answer)
    assert len(RULES.findall(text)) == 4, "those of the prompt"
    assert text.encode(), "it can be stored"


@given(TEXTS)
def test_no_reasoning_ends_its_block_of_a_labellers_question(reasoning: str) -> None:
    text = labels.question(reasoning).question
    assert len(RULES.findall(text)) == 2
    assert text.encode()
