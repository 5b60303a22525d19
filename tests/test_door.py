"""The Python API: the names of `import reasonray`, and the script of the README as it is written there."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import reasonray as rr
from tests.commands import ENVIRONMENT, ROOT, run_python

NAMES = [
    "Config", "Finish", "Interval", "Outcome", "Problem", "Rollout", "Run", "Score", "UserError", "Verdict",
    "check", "compare", "curate", "distill", "evaluate", "find_run", "load_config", "open_run", "report", "rewards",
    "sample", "train", "verify",
]  # fmt: skip
MODULES = ["rewards"]
"""The public names that are modules: functions for other projects, whose names they choose."""


def test_the_public_names_are_these_and_each_can_be_loaded() -> None:
    assert sorted(rr.__all__) == NAMES, "a new public name must be argued for"
    assert set(NAMES) <= set(dir(rr))
    for name in NAMES:
        assert callable(getattr(rr, name)) or name in MODULES
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        _ = rr.sampel


def test_a_name_stays_what_it_is_when_modules_are_loaded() -> None:
    """A submodule of the same name would take the place of a function once it is imported."""
    modules = "reasonray.cli.show, reasonray.pipeline, reasonray.stages.report, reasonray.stages.compare"
    script = f"import reasonray as rr, {modules}\n"
    script += f"assert all(type(getattr(rr, name)).__name__ != 'module' for name in {NAMES} if name not in {MODULES})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=ENVIRONMENT, check=True)


def test_checking_an_answer_loads_neither_ray_nor_torch() -> None:
    script = textwrap.dedent(
        r"""
        import sys
        import reasonray as rr
        assert rr.check(rr.Problem.of("6*7?", "42"), r"\boxed{42}").outcome is rr.Outcome.CORRECT
        assert rr.check(rr.Problem.of("6*7?", "42"), r"\boxed{41}").outcome is rr.Outcome.WRONG
        print([name for name in ("ray", "torch", "transformers", "vllm") if name in sys.modules])
        """
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True, cwd=ROOT).strip() == "[]"


@pytest.mark.ray
def test_the_script_of_the_readme_runs_as_it_is_written(tiny_student: str, tmp_path: Path) -> None:
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block
    override = '"policy.samples=4"'
    assert override in block[1]
    script = block[1].replace(override, f'{override}, "root={tmp_path}", "student.model={tiny_student}"')
    done = run_python("-c", script)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = done.stdout.splitlines()
    interval = next(line for line in lines if line.startswith("Interval(mean="))
    assert re.fullmatch(r"Interval\(mean=0\.\d+, low=0\.\d+, high=[01]\.\d+\)", interval)
    assert "student" in lines[lines.index(interval) - 1], "the headline is printed before the interval"
    assert len(lines) > lines.index(interval) + 5, "the wrong rollouts are printed after it"
