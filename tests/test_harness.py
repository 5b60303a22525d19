"""An exported student runs in lm-evaluation-harness by the README's command, so others can check the report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonray.training import tokenisation
from tests.students import byte_tokenizer, make_job, train, write_model

pytestmark = pytest.mark.slow

pytest.importorskip("lm_eval")

TRAINED = {"2+3=": "5", "4+4=": "8", "7+1=": "8"}
QUESTIONS = TRAINED | {"9+9=": "18"}
"""The harness's questions: three that the student was trained on, and one that it has never seen."""
TASK = """
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: ITEMS}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {do_sample: false, max_gen_toks: 8, until: []}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""


def exported(tmp_path: Path) -> Path:
    """Train a student on the sums until it has memorised them, and return its exported model."""
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}", special, "<|im_end|>")
    source = write_model(tmp_path / "model", vocab=len(tokenizer))
    tokenizer.save_pretrained(source)
    rows = [
        tokenisation.tokenise(
            tokenizer, [{"role": "user", "content": question}], {}, answer, tokenizer.eos_token_id, id=question
        )
        for question, answer in TRAINED.items()
    ]
    _, saved = train(make_job(tmp_path, rows, epochs=150, learning_rate=5e-3))
    return saved[max(saved)] / "model"


def test_the_harness_scores_the_sums_that_the_student_was_trained_on(tmp_path: Path) -> None:
    student, tasks = exported(tmp_path), tmp_path / "tasks"
    tasks.mkdir()
    items = tasks / "items.jsonl"
    lines = [json.dumps({"question": question, "answer": answer}) + "\n" for question, answer in QUESTIONS.items()]
    items.write_text("".join(lines))
    (tasks / "sums.yaml").write_text(TASK.replace("ITEMS", str(items)))
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--tasks", "sums", "--apply_chat_template"]
    command += ["--model_args", f"pretrained={student}", "--include_path", str(tasks), "--device", "cpu"]
    home = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, "--output_path", str(tmp_path / "out")],
        env=os.environ | home,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (results,) = (tmp_path / "out").rglob("results_*.json")
    assert json.loads(results.read_text())["results"]["sums"]["exact_match,none"] == pytest.approx(3 / 4)
