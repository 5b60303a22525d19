"""Examples are tokenised again exactly where what they are made of has changed, or their writing broke off."""

from pathlib import Path

from reasonray.store.run import Run
from reasonray.training.example_cache import Tokenised, complete, find, inputs
from tests.factories import a_minimal_config, a_run_with
from tests.students import write_model

TOKENISED = Tokenised([3, 5], ["example b: the completion is empty"])


def a_run(root: Path) -> Run:
    config = a_minimal_config(root, student={"model": str(write_model(root / "model", vocab=258))})
    return a_run_with(config)


def test_each_part_of_the_inputs_decides_and_nothing_else(tmp_path: Path) -> None:
    run = a_run(tmp_path)
    made_from = inputs(run, "data")
    assert made_from == inputs(run, "data")
    assert made_from != inputs(run, "other data")
    prompt = run.config.student.prompt.model_copy(update={"system": "Think."})
    prompted = run.config.student.model_copy(update={"prompt": prompt})
    assert made_from != inputs(Run(run.place, run.config.model_copy(update={"student": prompted})), "data")
    training = run.config.training.model_copy(update={"learning_rate": 1.0})
    assert made_from == inputs(Run(run.place, run.config.model_copy(update={"training": training})), "data")
    template = tmp_path / "model" / "chat_template.jinja"
    template.write_text(template.read_text() + " ")
    assert made_from != inputs(run, "data"), "the tokenizer's files count"


def test_only_complete_examples_of_the_same_inputs_are_found(tmp_path: Path) -> None:
    examples = a_run(tmp_path).student / "examples"
    assert find(examples, "a") is None
    (examples / "part-00000.arrow").write(b"rows")
    assert find(examples, "a") is None, "broken off"
    complete(examples, "a", TOKENISED)
    assert find(examples, "a") == TOKENISED
    assert find(examples, "b") is None
