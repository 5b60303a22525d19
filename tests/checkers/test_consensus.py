"""Equal answers, majorities, suspect gold answers, and the questions and replies of a judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.checkers import check, consensus, judgement
from reasonray.records import Outcome
from tests.factories import a_problem

ANSWERS = st.lists(st.sampled_from(["1/2", "0.5", r"\frac{1}{2}", "2", "2.0", "two", "$2$", "x + 1"]), max_size=9)


def test_answers_that_the_checker_finds_equal_are_one_group() -> None:
    assert consensus.same_answers(a_problem(), ["1/2", "3", "0.5", "3.0", r"\frac{1}{2}"]) == [[0, 2, 4], [1, 3]]
    words = a_problem(answer="Paris", checker="text_answer")
    assert consensus.same_answers(words, ["paris", "Rome", " Paris."]) == [[0, 2], [1]]


@given(ANSWERS)
def test_every_answer_is_in_one_group_and_the_majority_is_the_largest(answers: list[str]) -> None:
    groups = consensus.same_answers(a_problem(), answers)
    assert sorted(index for group in groups for index in group) == list(range(len(answers)))
    most = consensus.majority(a_problem(), answers)
    assert (most is None) == (not answers)
    if most:
        assert most.votes == max(map(len, groups))
        assert most.num_answers == len(answers)


def test_a_gold_answer_that_no_sample_gives_while_most_give_another_is_a_suspect() -> None:
    wrong, solved, torn, few = (a_problem(name) for name in ("wrong gold", "solved", "torn", "few"))
    verdicts = [
        *[(wrong.id, Outcome.WRONG, answer) for answer in ("41", "41.0", "7", "41")],
        *[(solved.id, Outcome.WRONG, "41")] * 5,
        (solved.id, Outcome.CORRECT, "42"),
        *[(torn.id, Outcome.WRONG, str(number)) for number in range(6)],
        *[(few.id, Outcome.WRONG, "41")] * 2,
        (few.id, Outcome.NO_ANSWER, None),
    ]
    doubtful, num_examined = consensus.suspects([solved, few, torn, wrong], verdicts)
    assert [(suspect.problem, suspect.majority) for suspect in doubtful] == [(wrong, consensus.Majority("41", 3, 4))]
    assert num_examined == 2, "wrong and torn: one is solved, one has too few answers"


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ("Both are 3.\nJudgement: yes", Outcome.CORRECT),
        ("Judgement: yes? The units differ. **Judgement:** no", Outcome.WRONG),
        ("judgment: NO.", Outcome.WRONG),
        ("Yes.", Outcome.CORRECT),
        ("The answer is yes.", Outcome.CORRECT),
        ("I cannot say yes or no.", Outcome.NO_ANSWER),
        ("yesterday", Outcome.NO_ANSWER),
        ("<think> Judgement: yes </think> Judgement: no", Outcome.WRONG),
    ],
)
def test_a_judges_last_decision_counts_and_a_reply_without_one_is_no_answer(reply: str, outcome: Outcome) -> None:
    problem = judgement.as_problem(judgement.question(a_problem(), "42", ""))
    assert check(problem, reply).outcome is outcome


def test_a_judge_sees_problem_gold_answer_and_answer_and_equal_answers_are_one_question() -> None:
    text = judgement.question(a_problem(), "40 {2}", "…")
    assert all(part in text for part in ("What is 6 * 7?", "42", "40 {2}"))
    one, other = (judgement.as_problem(judgement.question(a_problem(), "41", tail)) for tail in ("a", "b"))
    assert one == other
    assert "end of the student's response\nso long" in judgement.question(a_problem(), None, "so long")
