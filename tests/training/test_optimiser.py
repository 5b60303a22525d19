"""Muon updates the matrices that it should, as torch's own does, and settings reach AdamW."""

from pathlib import Path

import pytest
import torch

from reasonray.config import ConfigError, Training, parse
from reasonray.errors import UserError
from reasonray.training import loop, lora, optimiser
from reasonray.training.architecture import load_model, read_config
from tests.students import curve, make_job, random_examples, take_steps, train, write_model


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_an_orthogonal_matrix_has_the_singular_vectors_and_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = optimiser.orthogonal(matrix)
    values = torch.linalg.svdvals(result)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert 0.6 < float(values.min()) <= float(values.max()) < 1.3
    assert float((result * (left @ right)).sum() / (result.norm() * (left @ right).norm())) > 0.97
    assert float((result * matrix).sum() / (result.norm() * matrix.norm())) < 0.97  # control


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_muon_takes_the_steps_of_torchs_own(precision: str) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(24, 40, generator=generator)
    mine, stock = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = Training(optimiser="muon", learning_rate=0.02, weight_decay=0.1, precision=precision)  # type: ignore[arg-type]
    own = optimiser.Muon([("matrix", mine)], settings)
    reference = torch.optim.Muon([stock], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    take_steps(3, generator, (mine, own), (stock, reference))
    moved = (stock - start).norm()
    assert (mine - stock).norm() < 0.02 * moved  # torch rounds to bf16
    assert moved > 0.1


def test_muon_updates_matrices_of_layers_only(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path, optimiser="muon"), 0, 1)
    loop.take_step(session, 0)
    by_muon = {
        name
        for name, weight in session.weights.named.items()
        if "momentum_buffer" in session.optimiser.state_of(weight)
    }
    assert by_muon == {
        name for name, weight in session.weights.named.items() if ".layers." in name and weight.ndim == 2
    }
    assert by_muon < session.weights.named.keys()


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_by_muon_learns_and_resumes_bit_equal(tmp_path: Path, precision: str) -> None:
    job = make_job(tmp_path, optimiser="muon", batch=3, epochs=2, checkpoints=2, precision=precision)
    figures, saved = train(job)
    half = len(figures) // 2
    rest, _ = train(job, resume_from=saved[half])
    assert curve(rest) == curve(figures[half:])
    assert curve(figures) != curve(train(make_job(tmp_path, batch=3, epochs=2, checkpoints=2, precision=precision))[0])


def test_betas_and_eps_are_adamws(tmp_path: Path) -> None:
    session = loop.open_session(make_job(tmp_path, betas=(0.5, 0.75), eps=1e-3), 0, 1)
    assert {(group["betas"], group["eps"]) for group in session.optimiser.param_groups} == {((0.5, 0.75), 1e-3)}


def test_max_steps_ends_the_schedule(tmp_path: Path) -> None:
    job = make_job(tmp_path, max_steps=3, batch=3)
    figures, saved = train(job)
    assert len(figures) == 3
    assert max(saved) == 3
    assert figures[-1]["learning_rate"] == pytest.approx(job.training.learning_rate * job.training.floor)
    assert len(loop.make_plan(make_job(tmp_path, batch=3)).steps) > 3


def test_adapters_are_on_the_layers_that_are_named(tmp_path: Path) -> None:
    source = write_model(tmp_path / "model")

    def adapted(**settings: object) -> set[str]:
        training = Training(lora_rank=2, **settings)  # type: ignore[arg-type]
        model = load_model(source, read_config(source, training), torch.float32)
        lora.adapt(model, training)
        return {name.split(".")[-4] for name, weight in model.named_parameters() if weight.requires_grad}

    assert adapted(lora_targets=["q_proj", "self_attn.v_proj"]) == {"q_proj", "v_proj"}
    assert adapted() > {"q_proj", "v_proj", "up_proj"}
    with pytest.raises(UserError, match=r"no linear layer is called qproj; there are .*q_proj"):
        adapted(lora_targets=["qproj"])


@pytest.mark.slow
def test_adapters_with_dropout_resume_bit_equal(tmp_path: Path) -> None:
    job = make_job(tmp_path, random_examples(), lora_rank=2, lora_dropout=0.5, batch=3, epochs=2, checkpoints=2)
    figures, saved = train(job)
    half = len(figures) // 2
    rest, _ = train(job, resume_from=saved[half])
    assert curve(rest) == curve(figures[half:])
    assert curve(figures) != curve(train(make_job(tmp_path, lora_rank=2, batch=3, epochs=2, checkpoints=2))[0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lora_dropout": 0.1}, "do nothing without adapters"),
        ({"lora_targets": ["q_proj"]}, "do nothing without adapters"),
        ({"optimiser": "muon", "lora_rank": 4}, "does not go with adapters"),
        ({"optimiser": "muon", "cpu_offload": True}, "does not go with cpu_offload"),
        ({"momentum": 0.9}, "momentum is Muon's"),
        ({"betas": [0.9, 1.0]}, "betas.1"),
        ({"max_steps": 0}, "max_steps"),
    ],
)
def test_settings_that_do_nothing_are_refused(settings: dict[str, object], message: str) -> None:
    raw = {"name": "r", "sources": [{"kind": "generated"}], "student": {"model": "m"}, "training": settings}
    with pytest.raises(ConfigError, match=message):
        parse(raw)


def test_moments_in_main_memory_take_the_steps_of_torchs_adamw() -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(40, 24, generator=generator)
    mine, stock = (torch.nn.Parameter(start.clone()) for _ in range(2))
    settings = Training(learning_rate=0.01, cpu_offload="optimiser")
    own = optimiser.BlockwiseAdamW([{"params": [("weight", mine)], "weight_decay": 0.1}], settings)
    reference = torch.optim.AdamW([stock], lr=0.01, betas=settings.betas, eps=settings.eps, weight_decay=0.1)
    take_steps(5, generator, (mine, own), (stock, reference))
    assert torch.allclose(mine, stock, rtol=0, atol=1e-6)
    assert float((mine.detach() - start).abs().max()) > 0.01, "control: it moved"
