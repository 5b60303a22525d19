"""TRL loads the export with `datasets`, unchanged, and trains a step on it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from reasonray.config import Curation, Prompt
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.export import examples
from reasonray.curation.measures import measure_table
from reasonray.curation.preferences import labelled_rollouts, preference_pairs
from reasonray.records import Annotation, Outcome
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout
from tests.students import write_model

pytestmark = pytest.mark.slow


def test_trl_trains_a_step_on_the_completions_of_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    rollouts = [
        a_rollout(problem=a_problem(f"{number} + 1?"), annotation=Annotation(selected=True)) for number in range(4)
    ]
    table = examples(annotate_table(rollouts_to_table(rollouts)), Prompt(system="Add."))
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-0.parquet")
    loaded = datasets.load_dataset(str(tmp_path), split="train", cache_dir=str(tmp_path / "cache"))
    wanted = loaded.select_columns(["prompt", "completion"])
    arguments = trl.SFTConfig(
        output_dir=str(tmp_path / "out"), max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True,
        completion_only_loss=True, save_strategy="no", bf16=False, max_length=256, logging_steps=1,
    )  # fmt: skip
    trainer = trl.SFTTrainer(str(write_model(tmp_path / "model", vocab=512)), args=arguments, train_dataset=wanted)
    row = trainer.train_dataset[0]
    text = trainer.processing_class.decode([label for label in row["labels"] if label != -100])
    assert text.startswith(rollouts[0].completion), "the loss covers the teacher's text alone, verbatim"
    trainer.train()
    assert trainer.state.global_step == 1
    assert trainer.state.log_history[0]["loss"] > 0


def test_trl_takes_the_pairs_and_the_labelled_rollouts_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    trl = pytest.importorskip("trl")
    fit = "<think> Step 1: 6 * 7. </think> The answer is {}."
    rollouts = [
        a_rollout(fit.format(answer), outcome, sample=sample, problem=a_problem(f"{number}?"), annotation=Annotation())
        for number in range(4)
        for sample, (answer, outcome) in enumerate([("42", Outcome.CORRECT), ("41", Outcome.WRONG)])
    ]
    table = measure_table(annotate_table(rollouts_to_table(rollouts)), 20)
    model = str(write_model(tmp_path / "model", vocab=512))
    common = {"max_steps": 1, "report_to": [], "use_cpu": True, "bf16": False, "save_strategy": "no"}
    for make, trainer, config in (
        (preference_pairs, trl.DPOTrainer, trl.DPOConfig),
        (labelled_rollouts, trl.KTOTrainer, trl.KTOConfig),
    ):
        rows = make(table, Prompt(), Curation())
        pq.write_table(rows, tmp_path / "rows.parquet")
        data = datasets.Dataset.from_parquet(str(tmp_path / "rows.parquet"), cache_dir=str(tmp_path / make.__name__))
        arguments = config(output_dir=str(tmp_path / "out"), per_device_train_batch_size=4, max_length=256, **common)
        trained = trainer(model, args=arguments, train_dataset=data)
        trained.train()
        assert trained.state.log_history[-1]["train_loss"] > 0
