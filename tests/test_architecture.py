"""Promises of the structure: light imports, a fast command line, short files and functions, specific names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*(ROOT / "reasonray").rglob("*.py"), *(ROOT / "jobs").glob("*.py")])


@pytest.mark.parametrize(
    "module", ["reasonray", "reasonray.cli.main", "reasonray.checkers", "reasonray.problems", "reasonray.pipeline"]
)
def test_importing_loads_neither_torch_nor_vllm_nor_ray(module: str) -> None:
    script = f"import sys, {module}; print([m for m in ('torch', 'vllm', 'ray', 'transformers') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_help_is_printed_without_loading_what_takes_long() -> None:
    script = (
        "import runpy, sys; sys.argv = ['reasonray', '--help']\n"
        "try: runpy.run_module('reasonray.cli.main', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "slow = ('torch', 'vllm', 'ray', 'transformers', 'pyarrow', 'numpy', 'sympy', 'mpmath')\n"
        "print([name for name in slow if name in sys.modules], file=sys.stderr)"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert "usage" in printed.stdout.lower()
    assert printed.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            assert node.end_lineno - node.lineno <= 60, f"{node.name} is too long"


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "common", "helpers", "helper", "misc", "types", "manager"}
    assert not [path for path in SOURCES if path.stem in vague or path.parent.name in vague]
