"""Problems over an Arrow table are the sequence of problems that they were made of."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reasonray.records import Problem, Split
from reasonray.store.problem_table import ProblemTable
from tests.factories import a_problem

PROBLEMS = st.lists(
    st.builds(
        lambda number, answer, difficulty, split: a_problem(f"{number}?", answer, difficulty=difficulty, split=split),
        st.integers(0, 99),
        st.one_of(st.none(), st.text(max_size=5)),
        st.sampled_from(["easy", "hard", "ü"]),
        st.sampled_from(list(Split)),
    ),
    max_size=20,
)


@given(PROBLEMS, st.data())
def test_it_is_the_sequence_that_it_was_made_of(problems: list[Problem], data: st.DataObject) -> None:
    table = ProblemTable.of(problems)
    assert list(table) == [table[index] for index in range(len(table))] == problems
    assert table == problems
    assert ProblemTable.of(table) is table
    assert table.ids == [problem.id for problem in problems]
    chosen = data.draw(st.lists(st.integers(0, len(problems) - 1), max_size=5)) if problems else []
    assert table.take(chosen) == [problems[index] for index in chosen]
    assert table[1:4] == problems[1:4]


@given(PROBLEMS)
def test_difficulties_are_numbered(problems: list[Problem]) -> None:
    codes, names = ProblemTable.of(problems).difficulties()
    assert [names[code] for code in codes.tolist()] == [problem.difficulty for problem in problems]
    assert codes.dtype == np.int32
