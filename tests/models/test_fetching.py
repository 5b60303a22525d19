"""Models in stores and on the hub: fetched once, with progress, and out of reach in one line."""

import json
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasonray import models
from reasonray.config import UserError
from reasonray.models import fetching


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the directory of a model on a file system that the nodes share."""
    monkeypatch.setenv("REASONRAY_CACHE", str(tmp_path / "cache"))
    model = tmp_path / "shared"
    (model / "original").mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"num_attention_heads": 12}))
    (model / "model.safetensors").write_bytes(b"x" * 1000)
    (model / "original" / "consolidated.pth").write_bytes(b"x" * 1000)
    return model


def test_a_uri_is_copied_once_however_many_ask_for_it(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied: list[str] = []
    copy = fetching.Place.copy
    monkeypatch.setattr(fetching.Place, "copy", lambda file, target: copied.append(file.name) or copy(file, target))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(models.resolve(f"file://{shared}"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1
    assert sorted(copied) == ["config.json", "model.safetensors"]
    assert (found[0] / "model.safetensors").read_bytes() == b"x" * 1000
    (shared / "model.safetensors").write_bytes(b"y" * 1000)
    assert (models.resolve(f"file://{shared}") / "model.safetensors").read_bytes() == b"y" * 1000


def test_a_fetch_reports_how_far_it_is(tmp_path: Path) -> None:
    reports: list[str] = []
    reported = threading.Event()

    def report(phase: str) -> None:
        reports.append(phase)
        reported.set()

    with fetching._reported_growth(tmp_path, 4_000_000_000, report):
        with (tmp_path / "blob.incomplete").open("wb") as blob:
            blob.truncate(1_000_000_000)  # sparse
        assert reported.wait(10)
    assert reports[0] == "fetching 1.0 of 4.0 GB"


def test_the_configuration_of_a_model_in_a_store_is_read_without_its_weights(shared: Path) -> None:
    assert models.configuration(f"file://{shared}") == {"num_attention_heads": 12}
    assert models.configuration(str(shared)) == {"num_attention_heads": 12}
    assert not (Path(fetching.cache_directory()) / "fetched").exists()
    with pytest.raises(UserError, match=r"no config\.json there"):
        models.configuration(f"file://{shared}/original")


def hub_error(status: int) -> Exception:
    from huggingface_hub.errors import HfHubHTTPError

    request: Any = httpx.Request("GET", "http://hub")
    return HfHubHTTPError("no", response=httpx.Response(status, request=request))


@pytest.mark.parametrize(("status", "error"), [(429, OSError), (503, OSError), (401, UserError), (404, UserError)])
def test_a_hub_that_is_busy_is_no_mistake_of_the_user(status: int, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"status {status}"), fetching.hub_errors("owner/model"):
        raise hub_error(status)
