"""The JSON files of a model's directory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasonray.errors import UserError


def read_document(file: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model.

    Raises:
        UserError: the file holds something else, as after a download that was cut short.
    """
    try:
        found = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"model {file.parent}: {file.name} is not JSON ({error}); fetch or write it again") from None
    if not isinstance(found, dict):
        raise UserError(f"model {file.parent}: {file.name} holds no JSON object; fetch or write it again")
    return found
