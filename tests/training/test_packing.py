"""Packing and chunking change nothing but speed."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from transformers import AutoModelForCausalLM, Lfm2Config, LlamaConfig, Phi3Config

from reasonray.config import Training
from reasonray.errors import UserError
from reasonray.training import recomputation
from reasonray.training.architecture import supports_packing
from reasonray.training.attention import Context, attend_by_example, attend_varlen, packed_attention
from reasonray.training.examples import IGNORED, Batch, collate
from reasonray.training.mesh import Mesh
from reasonray.training.model import Student, load
from reasonray.training.self_check import self_check
from tests.families import write_family
from tests.students import LENGTHS, VOCAB, random_examples, write_model

ROWS = random_examples()
ALL = range(len(LENGTHS))
CPU = torch.device("cpu")
FP32 = Training(precision="fp32")


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def student(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Student:
    torch.set_num_threads(1)
    return load(write_model(tmp_path_factory.mktemp("model"), tied=request.param), FP32, CPU)


def gradients(student: Student, loss: Callable[[], torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    student.zero_grad()
    value = loss()
    value.backward()
    trained = {name: weight for name, weight in student.named_parameters() if weight.requires_grad}
    return float(value.detach()), {name: weight.grad.clone() for name, weight in trained.items()}


def farthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert sum(float(grad.norm()) for grad in one.values()) > 1e-3
    largest = max(float(grad.abs().max()) for grad in one.values())
    return max(float((one[name] - other[name]).abs().max()) for name in one) / max(1.0, largest)


def without_boundaries(batch: Batch) -> Batch:
    whole = torch.tensor([0, batch.input_ids.shape[1]], dtype=torch.int32)
    return Batch(batch.input_ids, batch.position_ids, batch.labels, whole, batch.input_ids.shape[1])


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_packed_logits_equal_those_of_separate_examples(student: Student, implementation: str) -> None:
    with torch.no_grad():
        packed_output = student.logits(collate(ROWS, ALL))
        stock = student.language_model
        stock.set_attn_implementation(implementation)
        separate = torch.cat([stock(torch.tensor([row.ids])).logits[0] for row in ROWS])
        stock.set_attn_implementation("reasonray")
    assert (packed_output - separate).abs().max() < 1e-5


@pytest.mark.parametrize("fault", [{"use_cache": True}, {"mask": True}, {"position_ids": None}], ids=str)
def test_control_stock_attention_mixes_the_examples_of_a_pack(student: Student, fault: dict[str, object]) -> None:
    batch = collate(ROWS, ALL)
    faithful = {"input_ids": batch.input_ids, "position_ids": batch.position_ids, "use_cache": False}
    faulty = faithful | {name: value for name, value in fault.items() if name != "mask"}
    if "mask" in fault:
        faulty["attention_mask"] = torch.ones_like(batch.input_ids)
    with torch.no_grad():
        expected = student.logits(batch)
        student.language_model.set_attn_implementation("sdpa")
        right = student.language_model(**faithful).logits[0]
        wrong = student.language_model(**faulty).logits[0]
        student.language_model.set_attn_implementation("reasonray")
    assert (right - expected).abs().max() < 1e-5
    assert (wrong - expected).abs().max() > 1e-3


def test_loss_and_gradients_of_any_packing_equal_those_of_separate_examples(student: Student) -> None:
    def summed(packs: list[list[int]]) -> Callable[[], torch.Tensor]:
        return lambda: torch.stack([student(collate(ROWS, pack)) for pack in packs]).sum()

    loss, separate = gradients(student, summed([[row] for row in ALL]))
    for packs in ([list(ALL)], [[3, 0], [7, 2, 5], [1], [6, 4]]):
        other, packed = gradients(student, summed(packs))
        assert other == pytest.approx(loss, rel=1e-5)
        assert farthest(separate, packed) < 1e-5


def test_control_a_pack_without_boundaries_has_other_gradients(student: Student) -> None:
    _, right = gradients(student, lambda: student(collate(ROWS, ALL)))
    _, wrong = gradients(student, lambda: student(without_boundaries(collate(ROWS, ALL))))
    assert farthest(right, wrong) > 1e-3


def test_gradients_summed_over_packs_equal_those_of_one_pack(student: Student) -> None:
    _, whole = gradients(student, lambda: student(collate(ROWS, ALL)) / 50)
    student.zero_grad()
    for row in ALL:
        (student(collate(ROWS, [row])) / 50).backward()
    assert farthest(whole, {name: weight.grad for name, weight in student.named_parameters()}) < 1e-6


@pytest.mark.parametrize("boundaries", [True, False], ids=["", "control"])
def test_the_loss_of_one_example_sends_no_gradient_into_another(student: Student, boundaries: bool) -> None:
    batch = collate(ROWS, [0, 2, 4])
    batch.labels[0, : LENGTHS[0]] = IGNORED
    seen: list[torch.Tensor] = []
    embeddings = student.language_model.get_input_embeddings()
    hook = embeddings.register_forward_hook(lambda module, ids, states: states.register_hook(seen.append) and None)
    student(batch if boundaries else without_boundaries(batch)).backward()
    hook.remove()
    first, others = seen[0][0].split([LENGTHS[0], LENGTHS[2] + LENGTHS[4]])
    assert others.norm() > 1e-3
    assert torch.equal(first, torch.zeros_like(first)) == boundaries


def test_a_token_of_one_example_does_not_reach_another(student: Student) -> None:
    batch = collate(ROWS, [0, 2, 4])
    changed = Batch(batch.input_ids.clone(), *(getattr(batch, name) for name in list(vars(batch))[1:]))
    changed.input_ids[0, 3] = (changed.input_ids[0, 3] + 1) % VOCAB
    with torch.no_grad():
        difference = (student.logits(batch) - student.logits(changed)).abs().amax(dim=1)
    assert difference[: LENGTHS[0]].max() > 1e-3
    assert torch.equal(difference[LENGTHS[0] :], torch.zeros_like(difference[LENGTHS[0] :]))


@pytest.mark.parametrize("chunk", [1, 7, 10_000])
def test_chunked_cross_entropy_equals_that_of_all_logits(student: Student, chunk: int) -> None:
    batch = collate(ROWS, ALL)
    whole = gradients(student, lambda: cross_entropy(student.logits(batch), batch.labels[0], reduction="sum"))
    chunked = Student(student.language_model, chunk)
    part = gradients(chunked, lambda: chunked(batch))
    assert part[0] == pytest.approx(whole[0], rel=1e-6)
    assert farthest(whole[1], part[1]) < 1e-6


def test_a_pack_without_targets_gives_zero_gradients_to_all_parameters(student: Student) -> None:
    loss, grads = gradients(student, lambda: student(collate([], [])))
    assert loss == 0
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads.values())


def test_activation_checkpointing_changes_no_gradient(tmp_path: Path) -> None:
    directory = write_model(tmp_path)
    batch = collate(ROWS, ALL)
    results = []
    for checkpointing in (False, True, "selective", "offload"):
        student = load(directory, FP32.model_copy(update={"activation_checkpointing": checkpointing}), CPU)
        _, grads = gradients(student, lambda student=student: student(batch))
        results.append({name.replace("_checkpoint_wrapped_module.", ""): grad for name, grad in grads.items()})
    assert max(farthest(results[0], other) for other in results[1:]) < 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_compiled_layers_have_the_same_gradients_for_any_pack_by_the_same_graphs(
    tmp_path: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The compiler's last stage takes most of its time and is torch's own; what may go wrong here comes before it.
    monkeypatch.setattr(recomputation.compile_layer, "__defaults__", ("aot_eager",))
    torch._dynamo.reset()
    directory = write_model(tmp_path)
    settings = FP32.model_copy(update={"activation_checkpointing": checkpointing})
    eager, compiled = (load(directory, settings.model_copy(update={"compile": on}), CPU) for on in (False, True))
    graphs = []
    for pack in ([0], [0, 1], ALL, [1]):
        batch = collate(ROWS, pack)
        expected, found = (gradients(each, lambda s=each, b=batch: s(b))[1] for each in (eager, compiled))
        assert farthest(expected, found) < 1e-5
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert 0 < graphs[1] == graphs[-1], "each pack after the first ones is computed by the same graphs"


@pytest.mark.parametrize("name", ["gpt_oss", "qwen3_moe", "qwen2"])
def test_selective_checkpointing_changes_no_gradient_of_experts_and_biases(name: str, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    write_family(name, tmp_path)
    batch = collate(ROWS, ALL)
    results = []
    for checkpointing in (True, "selective"):
        student = load(tmp_path, FP32.model_copy(update={"activation_checkpointing": checkpointing}), CPU)
        student.eval()  # without the router's noise
        results.append(gradients(student, lambda student=student: student(batch))[1])
    assert farthest(*results) < 1e-6


def test_sliding_windows_are_kept_within_a_pack(tmp_path: Path) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(2)
    config = Qwen2Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, use_sliding_window=True, sliding_window=4, max_window_layers=1, initializer_range=0.2,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager", dtype=torch.float32)
    with torch.no_grad():
        packed_output = load(tmp_path, FP32, CPU).logits(collate(ROWS, ALL))
        separate = torch.cat([stock(torch.tensor([row.ids])).logits[0] for row in ROWS])
    assert "sliding_attention" in config.layer_types
    assert (packed_output - separate).abs().max() < 1e-5


def varlen_attn_on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    cu_seq_lens_of_keys: torch.Tensor,
    *max_lengths: int,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """Compute attention as FlashAttention-2 does, after the checks of torch's entry point (mha_varlen_fwd)."""
    heads, size = key.shape[1:]
    assert query.shape[1:] == (4, size)
    assert value.shape == key.shape, "v must have shape (total_k, num_heads_k, head_size_og)"
    assert size % 8 == 0
    assert all(states.stride(-1) == 1 for states in (query, key, value))
    assert cu_seq_lens.dtype == torch.int32
    assert torch.equal(cu_seq_lens, cu_seq_lens_of_keys)
    assert max_lengths == (int(cu_seq_lens.diff().max()),) * 2
    assert enable_gqa == (heads != 4)
    pieces = []
    for begin, end in pairwise(cu_seq_lens.tolist()):
        position = torch.arange(end - begin)
        behind = position[:, None] - position[None]
        mask = (behind >= -window_size[1]) & ((behind <= window_size[0]) | (window_size[0] < 0))
        q, k, v = (states[begin:end].transpose(0, 1) for states in (query, key, value))
        pieces.append(scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=enable_gqa).transpose(0, 1))
    return torch.cat(pieces)


@pytest.mark.parametrize("window", [None, 3, 1])
@pytest.mark.parametrize(("heads", "value_size"), [(4, 16), (2, 16), (2, 8)])
def test_the_varlen_kernel_gets_arguments_that_give_the_result_of_single_examples(
    monkeypatch: pytest.MonkeyPatch, heads: int, value_size: int, window: int | None
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn_on_cpu)
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, 19, 16), torch.randn(1, heads, 19, 16), torch.randn(1, heads, 19, value_size)
    cu_seq_lens = torch.tensor([0, 7, 8, 19], dtype=torch.int32)
    packed_output = attend_varlen(query, key, value, 0.3, window, cu_seq_lens, 11)
    separate = attend_by_example(query, key, value, 0.3, window, cu_seq_lens)
    assert packed_output.shape == separate.shape == (1, 19, 4, value_size)
    assert (packed_output - separate).abs().max() < 1e-6
    mixed = attend_varlen(query, key, value, 0.3, window, torch.tensor([0, 19], dtype=torch.int32), 19)
    assert (mixed - separate).abs().max() > 1e-3 or window == 1


def test_the_self_check_accepts_this_attention_and_rejects_one_that_mixes(student: Student) -> None:
    def mixing(batch: Batch) -> torch.Tensor:
        return student.logits(without_boundaries(batch))

    with torch.no_grad():
        self_check(student.logits, student.stock_logits, VOCAB)
        with pytest.raises(UserError, match="packing would mix"):
            self_check(mixing, student.stock_logits, VOCAB)


def test_the_self_check_rejects_attention_that_is_not_the_models(
    student: Student,
) -> None:
    scaling = [layer.self_attn.scaling for layer in student.language_model.base_model.layers]

    def warmer(batch: Batch) -> torch.Tensor:
        for layer, scale in zip(student.language_model.base_model.layers, scaling, strict=True):
            layer.self_attn.scaling = scale / 2
        logits = student.logits(batch)
        for layer, scale in zip(student.language_model.base_model.layers, scaling, strict=True):
            layer.self_attn.scaling = scale
        return logits

    with torch.no_grad(), pytest.raises(UserError, match="trained as another model"):
        self_check(warmer, student.stock_logits, VOCAB)


def test_models_with_recurrent_layers_or_soft_capping_are_not_packed() -> None:
    assert supports_packing(LlamaConfig())
    hybrid = LlamaConfig()
    hybrid.layer_types = ["full_attention", "linear_attention"]
    capped = LlamaConfig()
    capped.attn_logit_softcapping = 50.0
    assert not supports_packing(hybrid)
    assert not supports_packing(capped)


def test_models_with_rotary_embeddings_that_stretch_are_not_packed(tmp_path: Path) -> None:
    torch.manual_seed(3)
    rope = {"rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    config = Phi3Config(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        initializer_range=0.2, max_position_embeddings=64, original_max_position_embeddings=16, pad_token_id=0,
        rope_scaling=rope | {"rope_type": "longrope", "type": "longrope", "original_max_position_embeddings": 16},
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    assert not supports_packing(config)
    positions = torch.cat([torch.arange(30), torch.arange(10)])[None]
    ids = torch.randint(VOCAB, (1, 40))
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, 30:]
        alone = model(input_ids=ids[:, 30:], use_cache=False).logits[0]
    assert (packed - alone).abs().max() > 0.1, "control: the short example's positions depend on the long one"


def test_a_model_with_dropout_passes_the_self_check_and_uses_dropout_in_training(tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(write_model(tmp_path))
    config.attention_dropout = 0.5
    config.save_pretrained(tmp_path)
    dropping = load(tmp_path, FP32, CPU)
    batch = collate(ROWS, ALL)
    with torch.no_grad():
        assert not torch.equal(dropping.logits(batch), dropping.logits(batch))
        dropping.eval()
        assert torch.equal(dropping.logits(batch), dropping.logits(batch))
        self_check(dropping.logits, dropping.stock_logits, VOCAB)


def test_a_model_that_is_not_packed_is_compared_with_transformers_too(student: Student) -> None:
    with torch.no_grad():
        self_check(student.logits, student.stock_logits, VOCAB, packing=False)
        with pytest.raises(UserError, match="trained as another model"):
            self_check(lambda batch: 2 * student.logits(batch), student.stock_logits, VOCAB, packing=False)


def test_a_model_that_alters_its_logits_otherwise_is_refused(tmp_path: Path) -> None:
    config = LlamaConfig.from_pretrained(write_model(tmp_path))
    config.final_logit_softcapping = 30.0
    config.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="trained as another model"):  # a Llama does not read this key
        load(tmp_path, FP32, CPU)


def test_every_example_has_at_least_one_target_token() -> None:
    assert all(int((collate(ROWS, [row]).labels != IGNORED).sum()) >= 1 for row in ALL)


def test_a_pack_is_not_shared_by_more_processes_than_divide_the_heads() -> None:
    states = torch.zeros(1, 4, 6, 8)
    with pytest.raises(UserError, match=r"training\.context = 3 does not divide the student's 4 attention heads"):
        packed_attention(
            torch.nn.Module(), states, states, states, None, context=Context(0, 3, None),
            cu_seq_lens_q=torch.tensor([0, 18]), max_length_q=18,
        )  # fmt: skip


def test_a_pack_of_a_model_with_recurrent_layers_is_not_shared(tmp_path: Path) -> None:
    Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"training\.context: the student's attention cannot be divided"):
        load(tmp_path, FP32, CPU, Mesh(0, 2, 2, Context(0, 2, None)))
