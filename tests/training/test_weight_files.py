"""All workers read and write a model's files, each its share, and transformers reads what they wrote."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from reasonray.config import Training
from reasonray.training import loop, model, weight_files
from reasonray.training.architecture import empty_model, read_config
from reasonray.training.export import NotExported, export, probe_logits
from reasonray.training.weight_files import StoredWeights
from tests.families import write_family
from tests.students import EXACT, in_workers, make_job, write_model

pytestmark = pytest.mark.slow


def record_reading(rank: int, world: int, job: loop.TrainingJob, result: Path) -> None:
    """Write how many elements each worker reads, where none may read the model whole; and the weights of them all."""
    counts = torch.zeros(world)
    process, whole = weight_files._Reader._process_read_request, model.load_model

    def counted(self: Any, file: Any, request: Any, planner: Any) -> None:
        counts[rank] += request.lengths.numel()
        process(self, file, request, planner)

    def refuse(*_: Any) -> None:
        raise AssertionError("a worker reads the model whole")

    weight_files._Reader._process_read_request, model.load_model = counted, refuse
    weights = loop.open_session(job, rank, world).weights
    weight_files._Reader._process_read_request, model.load_model = process, whole
    dist.all_reduce(counts)
    gathered = weights.gather()
    if rank == 0:
        torch.save((counts.tolist(), gathered), result)


def record_export(rank: int, world: int, job: loop.TrainingJob, root: Path, fault: str = "") -> None:
    """Export in parts after a step; write who wrote what, whether it was refused, and the logits and weights.

    Args:
        rank: of this worker.
        world: number of workers.
        job: what to train.
        root: directory to write; workers with a directory of their own are on machines that share none.
        fault: "settings" changes the configuration that is written.
    """
    part, written = weight_files._PART_BYTES, weight_files.write
    own: list[str] = []

    def recorded(*arguments: Any) -> Any:
        tensors = written(*arguments)
        own.extend(tensors)
        if fault == "settings" and rank == 0:
            config = root / "shared" / "model" / "config.json"
            values = json.loads(config.read_text())
            config.write_text(json.dumps(values | {"rms_norm_eps": 0.5}))
        return tensors

    weight_files._PART_BYTES, weight_files.write = 1, recorded  # type: ignore[assignment]
    session = loop.open_session(job, rank, world)
    loop.take_step(session, 0)
    logits = probe_logits(session.student, session.device)
    session.weights.refresh()
    refused = ""
    try:
        target = root / ("shared" if job.checkpoint_directory == "" or rank == 0 else f"machine {rank}")
        export(session.weights, job.model_directory, target, session.training, logits, session.mesh, session.device)
    except NotExported as error:
        refused = str(error)
    weight_files._PART_BYTES, weight_files.write = part, written  # type: ignore[assignment]
    (root / f"{rank}.json").write_text(json.dumps({"own": own, "refused": refused}))
    gathered = session.weights.gather()
    if rank == 0:
        torch.save((logits, gathered), root / "trained.pt")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("files")
    calls = []
    for name in ("llama", "mixtral"):
        write_family(name, root / name / "model")
        calls.append((record_reading, (make_job(root / name), root / name / "read.pt")))
    write_model(root / "adapted" / "model")
    jobs = {
        "llama": make_job(root / "llama"),
        "mixtral": make_job(root / "mixtral"),
        "adapted": make_job(root / "adapted", lora_rank=4),
        "rounded": make_job(root / "adapted", precision="bf16"),
    }
    for name, job in jobs.items():
        (root / f"{name} exported").mkdir()
        calls.append((record_export, (replace(job, checkpoint_directory=""), root / f"{name} exported")))
    for name in ("apart", "settings"):
        (root / f"{name} exported").mkdir()
        fault = name if name == "settings" else ""
        calls.append((record_export, (jobs["llama"], root / f"{name} exported", fault)))
    (root / "same exported").mkdir()
    same = replace(jobs["llama"], checkpoint_directory="")
    calls.append((record_export, (same, root / "same exported", "settings")))
    in_workers(2, *calls)
    return root


@pytest.mark.parametrize("name", ["llama", "mixtral"])
def test_each_worker_reads_its_shards_only_and_none_the_whole_model(done: Path, name: str) -> None:
    counts, weights = torch.load(done / name / "read.pt")
    expected = dict(AutoModelForCausalLM.from_pretrained(done / name / "model").named_parameters())
    assert all(torch.equal(weight, expected[key]) for key, weight in weights.items())
    elements = sum(weight.numel() for key, weight in expected.items() if ".experts." not in key)
    assert sum(counts) == elements, "experts are stored one by one, and converted"
    assert max(counts) < 0.55 * elements


@pytest.mark.parametrize("name", ["llama", "mixtral", "adapted", "rounded"])
def test_workers_share_the_writing_of_a_model_that_transformers_reads(done: Path, name: str) -> None:
    root = done / f"{name} exported"
    shares = [json.loads((root / f"{rank}.json").read_text()) for rank in range(2)]
    assert [share["refused"] for share in shares] == ["", ""]
    assert all(share["own"] for share in shares)
    assert not set(shares[0]["own"]) & set(shares[1]["own"])
    logits, weights = torch.load(root / "trained.pt")
    read = AutoModelForCausalLM.from_pretrained(root / "shared" / "model")
    if name != "adapted":
        found = dict(read.named_parameters())
        assert all(torch.equal(found[key], weight.to(found[key].dtype)) for key, weight in weights.items())
    ids = torch.tensor([[(17 * position + 1) % read.config.vocab_size for position in range(16)]])
    with torch.no_grad():
        computed = read(input_ids=ids).logits[0]
    assert (computed - logits).abs().max() < (0.05 if name == "rounded" else 1e-4) * logits.float().std()


def test_files_have_the_names_and_weights_that_transformers_writes(done: Path) -> None:
    for name in ("llama", "mixtral"):
        exported = {}
        for file in (done / f"{name} exported" / "shared" / "model").glob("*.safetensors"):
            exported |= load_file(file)
        source = load_file(done / name / "model" / "model.safetensors")
        assert {key: tensor.shape for key, tensor in exported.items()} == {
            key: tensor.shape for key, tensor in source.items()
        }


def test_machines_without_a_shared_directory_write_the_same_files(done: Path) -> None:
    root = done / "apart exported"
    parts = [root / "shared" / "model", root / "machine 1" / "model"]
    assert all(list(part.glob("*.safetensors")) for part in parts)
    together = done / "llama exported" / "shared" / "model"
    for file in (*parts[0].iterdir(), *parts[1].iterdir()):
        assert (together / file.name).read_bytes() == file.read_bytes(), "equal weights are equal files"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("settings", "the configuration reads back other"), ("same", "computes other logits")],
)
def test_control_an_export_with_other_settings_is_refused_by_all_workers(done: Path, name: str, complaint: str) -> None:
    root = done / f"{name} exported"
    refusals = [json.loads((root / f"{rank}.json").read_text())["refused"] for rank in range(2)]
    assert complaint in refusals[0]
    assert all(refusals)
    assert (root / "shared" / "not-exported" / "config.json").exists()
    assert not (root / "shared" / "model").exists()


def without_a_weight(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in stored.items() if "down_proj" not in name}


def of_another_shape(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor[:1].clone() if "down_proj" in name else tensor for name, tensor in stored.items()}


def with_an_output_layer(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return stored | {"lm_head.weight": stored["model.embed_tokens.weight"] + 1}


@pytest.mark.parametrize("change", [without_a_weight, of_another_shape, with_an_output_layer])
def test_files_that_only_transformers_can_judge_are_left_to_it(tmp_path: Path, change: Any) -> None:
    source = write_model(tmp_path)
    with torch.device("meta"):
        skeleton = empty_model(read_config(source, Training(**EXACT)), torch.float32)
    assert StoredWeights.find(source, skeleton) is not None
    file = source / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})
    assert StoredWeights.find(source, skeleton) is None
