"""A model whose JSON files are broken is refused in one line."""

import json
from pathlib import Path

import pytest

from reasonray import models
from reasonray.errors import UserError
from reasonray.models import adapters
from reasonray.models.documents import read_document


@pytest.mark.parametrize(
    "content", [b"", b'{"model_type": "lla', b"[1, 2]", b"\xff\xfe", b"null", b"version https://git-lfs"]
)
@pytest.mark.parametrize("name", ["config.json", adapters.CONFIGURATION])
def test_a_broken_configuration_is_one_line_that_names_the_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as raised:
        models.configuration(str(tmp_path))
    assert "\n" not in str(raised.value)


def test_a_sound_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert read_document(tmp_path / "config.json") == {"model_type": "llama"}
