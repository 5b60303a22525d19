"""Resuming, export, overfitting and stopping, on one worker."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GPT2Config,
    Lfm2Config,
    PreTrainedConfig,
)

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import loop, tokenisation
from reasonray.training.examples import collate
from reasonray.training.export import NotExported, _verify, export, probe_logits
from reasonray.training.mesh import ALONE
from reasonray.training.model import Weights, load
from tests.students import VOCAB, byte_tokenizer, curve, make_job, random_examples, save, train, write_model

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_is_bit_equal_to_an_unbroken_one(tmp_path: Path, precision: str) -> None:
    job = make_job(tmp_path, precision=precision, batch=3, checkpoints=2)
    figures, saved = train(job)
    steps = len(figures)
    weights = {step: AutoModelForCausalLM.from_pretrained(path / "model").state_dict() for step, path in saved.items()}
    rest, again = train(job, resume_from=saved[steps // 2])
    assert list(saved) == [steps // 2, steps]
    assert curve(rest) == curve(figures[steps // 2 :])
    after = AutoModelForCausalLM.from_pretrained(again[steps] / "model").state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in weights[steps].items())
    assert any(not torch.equal(weight, after[name]) for name, weight in weights[steps // 2].items())


def test_resuming_with_other_settings_seed_or_examples_is_refused_by_name(tmp_path: Path) -> None:
    _, saved = train(make_job(tmp_path, epochs=1))
    (checkpoint,) = saved.values()
    for changes, field in (
        ({"learning_rate": 1e-3, "epochs": 1}, "training.learning_rate"),
        ({"epochs": 2}, "training.epochs"),
        ({"seed": 1, "epochs": 1}, "seed"),
        ({"rows": random_examples((9, 2, 14)), "epochs": 1}, "examples"),
    ):
        with pytest.raises(UserError, match=f"{field} was"):
            train(make_job(tmp_path, **changes), resume_from=checkpoint)  # type: ignore[arg-type]
    train(make_job(tmp_path, epochs=1, max_failures=7), resume_from=checkpoint)


@pytest.mark.parametrize("tied", [True, False])
def test_the_export_computes_what_was_trained(tmp_path: Path, tied: bool) -> None:
    source = write_model(tmp_path / "model", tied=tied)
    (tmp_path / "model" / "generation_config.json").write_text('{"eos_token_id": [2, 5]}')
    job = make_job(tmp_path, epochs=1)
    session = loop.open_session(job, 0, 1)
    loop.take_step(session, 0)
    exported = save(session, job, 1) / "model"
    model = AutoModelForCausalLM.from_pretrained(exported)
    rows = random_examples()
    with torch.no_grad():
        expected = session.student.logits(collate(rows, [4]))
        assert (model(torch.tensor([rows[4].ids])).logits[0] - expected).abs().max() < 1e-5
    assert model.state_dict().keys() == AutoModelForCausalLM.from_pretrained(source).state_dict().keys()
    assert model.generation_config.eos_token_id == [2, 5]
    assert AutoTokenizer.from_pretrained(exported).chat_template == AutoTokenizer.from_pretrained(source).chat_template


def test_generation_settings_are_copied_even_if_transformers_would_not_write_them(
    tmp_path: Path,
) -> None:
    source = write_model(tmp_path / "model")
    settings = '{"eos_token_id": 2, "do_sample": false, "temperature": 0.0, "top_p": 0.8}'
    (source / "generation_config.json").write_text(settings)
    _, saved = train(make_job(tmp_path, epochs=1))
    (exported,) = saved.values()
    assert (exported / "model" / "generation_config.json").read_text() == settings


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(
            vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=256, bos_token_id=None, eos_token_id=2
        ),
        Lfm2Config(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False,
            bos_token_id=None, eos_token_id=2, pad_token_id=0,
        ),
    ],
    ids=["dropout, layers by another name", "hybrid"],
)  # fmt: skip
def test_other_architectures_learn(tmp_path: Path, config: PreTrainedConfig) -> None:
    write_model(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "model")
    figures, _ = train(make_job(tmp_path, activation_checkpointing=True, epochs=20))
    assert figures[-1]["loss"] < 0.8 * figures[0]["loss"]


def test_stored_buffers_are_exported_too(tmp_path: Path) -> None:
    write_model(tmp_path / "source")
    config = DeepseekV3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=32, moe_intermediate_size=16, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, first_k_dense_replace=1, q_lora_rank=8, kv_lora_rank=8, qk_rope_head_dim=8,
        qk_nope_head_dim=8, v_head_dim=8,
    )  # fmt: skip
    model = DeepseekV3ForCausalLM(config)
    (stored,) = [name for name in model.state_dict() if name.endswith("e_score_correction_bias")]
    model.get_buffer(stored).copy_(torch.arange(4.0))
    model.save_pretrained(tmp_path / "source")
    with torch.no_grad():
        for weight in model.parameters():
            weight *= 2
    model.save_pretrained(tmp_path / "trained")
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    cpu = torch.device("cpu")
    trained = Weights.of_student(load(tmp_path / "trained", Training(precision="fp32"), cpu), "fp32")
    logits = probe_logits(trained.student, cpu)
    export(trained, tmp_path / "source", tmp_path / "target", Training(precision="fp32"), logits)
    written = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "target" / "model").state_dict()
    assert written[stored].tolist() == [0, 1, 2, 3]
    assert all(torch.equal(written[name], weight) for name, weight in weights.items())


def test_a_student_with_a_chat_template_of_its_own_is_exported_with_it(tmp_path: Path) -> None:
    template = "{% for turn in messages %}{{ turn.content }}{% endfor %}"
    job = replace(make_job(tmp_path), chat_template=template)
    exported = save(loop.open_session(job, 0, 1), job, 1) / "model"
    assert AutoTokenizer.from_pretrained(exported).chat_template == template
    plain = save(loop.open_session(job, 0, 1), make_job(tmp_path), 2) / "model"
    assert AutoTokenizer.from_pretrained(plain).chat_template != template


def test_an_export_that_reads_back_differently_is_an_error(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path), 0, 1)
    exported = save(session, make_job(tmp_path), 1) / "model"
    file = exported / "model.safetensors"
    stored = load_file(file)
    name = next(iter(stored))
    logits = probe_logits(session.student, session.device)
    config = AutoConfig.from_pretrained(exported)

    def verify(logits: torch.Tensor) -> None:
        _verify(exported, config, stored, Training(precision="fp32"), logits, ALONE, torch.device("cpu"))

    verify(logits)
    with pytest.raises(NotExported, match="computes other logits"):
        verify(logits.roll(1, 0))
    save_file(stored | {name: stored[name] + 1e-7}, file, metadata={"format": "pt"})
    with pytest.raises(NotExported, match="reads back other than it was written"):
        verify(logits)
    save_file({key: stored[key] for key in stored if key != name}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=name):
        verify(logits)


def test_four_examples_are_memorised_and_the_student_stops(tmp_path: Path) -> None:
    special = ["<|im_start|>", "<|im_end|>"]
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}", special, "<|im_end|>")
    source = write_model(tmp_path / "model", vocab=len(tokenizer))
    stop = tokenizer.eos_token_id
    texts = {"2+3=": "5", "4+4=": "it is 8", "7+1=": "8", "9+0=": "<think>no</think>9"}
    rows = [
        tokenisation.tokenise(tokenizer, [{"role": "user", "content": question}], {}, answer, stop, id=question)
        for question, answer in texts.items()
    ]
    figures, saved = train(make_job(tmp_path, rows, epochs=150, learning_rate=5e-3))
    assert figures[-1]["loss"] < 0.05 < figures[0]["loss"]
    model = AutoModelForCausalLM.from_pretrained(list(saved.values())[-1] / "model")
    for row in rows:
        prompt = torch.tensor([row.ids[: row.start]])
        generated = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=40, do_sample=False, eos_token_id=stop,
            pad_token_id=stop,
        )  # fmt: skip
        assert generated[0].tolist() == row.ids
    assert source.exists()


def test_a_gradient_that_is_not_finite_stops_before_the_update_and_names_the_examples(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path), 0, 1)
    before = session.weights.gather()
    before = {name: weight.clone() for name, weight in before.items()}
    session.student.register_forward_hook(lambda module, arguments, loss: loss * float("inf"))
    with pytest.raises(loop.NonFinite, match=r"step 1: loss inf.*p\d, p\d"):
        loop.take_step(session, 0)
    assert all(torch.equal(weight, before[name]) for name, weight in session.weights.gather().items())


def test_bf16_learns_like_fp32_from_fp32_weights(tmp_path: Path) -> None:
    exact, _ = train(make_job(tmp_path, epochs=6))
    rough, _ = train(make_job(tmp_path, epochs=6, precision="bf16"))
    assert exact[-1]["loss"] < exact[0]["loss"] / 1.5
    for one, other in zip(exact, rough, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], rel=0.05)
    session = loop.open_session(make_job(tmp_path, precision="bf16"), 0, 1)
    assert {weight.dtype for weight in session.weights.named.values()} == {torch.float32}
    assert {weight.dtype for weight in session.student.parameters()} == {torch.bfloat16}


def test_examples_that_are_too_long_are_left_out_and_named(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_tokens=16, epochs=1)
    summary = loop.run(job, 0, 1, None, lambda figures: None, lambda step, path: None)
    assert summary.overlong == ["p4", "p6"]
    assert summary.examples == 6
    with pytest.raises(UserError, match="nothing to train on"):
        train(make_job(tmp_path, max_tokens=1))


def test_a_tokenizer_of_another_model_is_an_error_before_the_first_step(tmp_path: Path) -> None:
    job = make_job(tmp_path, random_examples(vocab=97))
    write_model(Path(job.model_directory), vocab=20)
    with pytest.raises(UserError, match="the model knows 20"):
        loop.open_session(job, 0, 1)
