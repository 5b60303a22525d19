"""An exported student runs in lm-evaluation-harness as the README says, so that others can check what is reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reasonray.training import examples
from tests.students import byte_tokenizer, make_job, train, write_model

pytest.importorskip("lm_eval")

LEARNT = {"2+3=": "5", "4+4=": "8", "7+1=": "8"}
ASKED = LEARNT | {"9+9=": "18"}
"""What the harness asks: three that the student knows by heart, and one that it has never seen."""
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
    """A student that has learnt the sums by heart, as training exports it."""
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}", special, "<|im_end|>")
    source = write_model(tmp_path / "model", vocab=len(tokenizer))
    tokenizer.save_pretrained(source)
    rows = [
        examples.tokenise(tokenizer, [{"role": "user", "content": asked}], {}, said, tokenizer.eos_token_id, id=asked)
        for asked, said in LEARNT.items()
    ]
    _, saved = train(make_job(tmp_path, rows, epochs=150, learning_rate=5e-3))
    return saved[max(saved)] / "model"


def test_the_harness_finds_what_the_student_has_learnt(tmp_path: Path) -> None:
    student, tasks = exported(tmp_path), tmp_path / "tasks"
    tasks.mkdir()
    items = tasks / "items.jsonl"
    items.write_text("".join(json.dumps({"question": it, "answer": said}) + "\n" for it, said in ASKED.items()))
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
