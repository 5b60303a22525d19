"""Loss weights reach the student's examples from the configuration of curation, by one column."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from reasonray.config import ConfigError, Curation, Prompt, Student, UserError, parse
from reasonray.curation.export import EXPORT_SCHEMA, examples
from reasonray.curation.loss_weights import loss_weights
from reasonray.curation.rules import check_names
from reasonray.records import Annotation
from reasonray.store.schema import rollouts_to_table
from reasonray.store.storage import place
from reasonray.training.examples import collate, read
from reasonray.training.tokenisation import tokenise_files
from tests.factories import a_minimal_config, a_problem, a_rollout
from tests.students import write_model

REPLY = "<think> I call the tool. [4] Fine. </think> 4"
QUESTIONS = {"easy?": 1.0, "hard?": 0.25, "unjudged?": None}


def rollouts() -> pa.Table:
    return rollouts_to_table(
        [
            a_rollout(REPLY, problem=a_problem(question), annotation=Annotation(selected=True, pass_rate=rate))
            for question, rate in QUESTIONS.items()
        ]
    )


def without_tool(table: pa.Table) -> list[Any]:
    """Leave the tool's output out, count the second example twice, and the third as it is."""
    begin = REPLY.index("[4]")
    return [[(0, begin, 1.0), (begin + 3, len(REPLY), 1.0)], 2, None]


def wrong_number(table: pa.Table) -> list[float]:
    return [1.0]


def wrong_type(table: pa.Table) -> list[str]:
    return ["much"] * table.num_rows


def parts(table: pa.Table, name: str) -> list[Any]:
    lists = loss_weights(table, name).to_pylist()
    return [row and [tuple(part.values()) for part in row] for row in lists]


def test_problems_that_are_seldom_solved_count_more() -> None:
    whole = len(REPLY)
    assert parts(rollouts(), "inverse_pass_rate") == [[(0, whole, 1.0)], [(0, whole, 4.0)], None]


def test_a_function_weighs_examples_or_parts_of_them(tmp_path: Path) -> None:
    table = examples(rollouts(), Prompt(), f"{__name__}:without_tool")
    place(tmp_path / "data.parquet").write_table(table)
    student = Student(model=str(write_model(tmp_path / "model", vocab=258)))
    tokenise_files(student, [place(tmp_path / "data.parquet")], tmp_path / "examples.arrow")
    stored = read(tmp_path / "examples.arrow")
    by_id = {stored[row].id: stored[row] for row in range(len(stored))}
    first, second, third = (by_id[id] for id in table["id"].to_pylist())
    letters = len(REPLY) + 1  # a token each, and the stop token
    assert first.weights == [float(not 25 <= at < 28) for at in range(letters)]
    assert second.weights == [2.0] * letters
    assert third.weights is None
    assert sorted(stored.target_weights.tolist()) == [letters - 3, letters, 2 * letters]
    batch = collate([first, second, third], [0, 1, 2])
    assert batch.weights is not None
    assert np.unique(batch.weights.numpy()).tolist() == [0.0, 1.0, 2.0]


def test_without_weights_there_is_no_column() -> None:
    assert examples(rollouts(), Prompt()).schema == EXPORT_SCHEMA


@pytest.mark.parametrize("name", ["wrong_number", "wrong_type"])
def test_a_function_that_returns_something_else_is_an_error(name: str) -> None:
    with pytest.raises(UserError, match=rf"curation\.loss_weight: .*:{name}"):
        loss_weights(rollouts(), f"{__name__}:{name}")


def test_a_weight_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"curation\.loss_weight: there is no 'inverse'"):
        parse(a_minimal_config(tmp_path).model_dump(mode="json") | {"curation": {"loss_weight": "inverse"}})
    with pytest.raises(UserError, match=r"curation\.loss_weight: no_such_module:f cannot be imported"):
        check_names(Curation(loss_weight="no_such_module:f"))
