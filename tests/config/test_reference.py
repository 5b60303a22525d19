"""The reference of knobs: complete, current, and generated from the code."""

import subprocess
import sys
from pathlib import Path

import pytest

import reasonray.config
from reasonray.cli.config import describe_config
from reasonray.config import Config, Teacher
from reasonray.config.changes import change_of, sections_in
from reasonray.config.models import PromptedModel
from reasonray.config.reference import config_reference, field_docstring, readme
from reasonray.config.section import Change, Section

README = Path(reasonray.config.__file__).parent / "README.md"


def all_sections() -> set[type[Section]]:
    known: set[type[Section]] = set()

    def visit(section: type[Section]) -> None:
        known.add(section)
        for field in section.model_fields.values():
            for held in sections_in(field.annotation):
                visit(held)

    visit(Config)
    return known


def test_the_readme_is_current() -> None:
    assert README.read_text(encoding="utf-8") == readme(), "run: python -m reasonray.config"
    assert describe_config() == config_reference()


def test_a_command_updates_the_readme() -> None:
    before = README.read_text(encoding="utf-8")
    subprocess.run([sys.executable, "-m", "reasonray.config"], check=True)
    assert README.read_text(encoding="utf-8") == before


@pytest.mark.parametrize("section", sorted(all_sections(), key=lambda section: section.__name__))
def test_every_section_and_every_field_has_a_docstring(section: type[Section]) -> None:
    assert section.__doc__
    fields = [name for name in section.model_fields if name != "kind"]
    assert [name for name in fields if not field_docstring(section, name)] == []


def test_every_field_is_in_the_reference() -> None:
    reference = config_reference()
    for section in all_sections():
        for name in section.model_fields:
            is_heading = section is Config and sections_in(section.model_fields[name].annotation)
            assert name == "kind" or is_heading or f"\n- **`{name}`** " in reference
    for line in (
        "- **`samples`** = `8` · integer ≥ 1 · *extends*",
        '- **`quota`** = `"even"` · `"even"` or `"difficulty"` · *extends*',
        "- **`zero_stage`** unset · `1` or `3` · *free*",
        "- **`workers`** = `1` · integer ≥ 1 or [least, most] · *free*",
        "- **`max_tokens`** = `1024` · integer ≥ 1 · *fixed; may be raised in `teachers`*",
        '- **`share`** = `1.0` · number > 0 and ≤ 1 or `"unsolved"` or `"unfinished"` or `"unmet"` or `"frontier"` '
        "· *extends*",
        '- **`root`** = `"runs"` · string · *free*',
        "- **`path`** required · string · *extends*",
        "Keys of `[checking.judge]` that are *extends*: `model`, `revision`, `engine`, `prompt`, `sampling`; *free*: "
        "`trust_remote_code`, `replicas`, `gpus`, `pipeline`, `cpus`, `labels`, `price`.",
    ):
        assert f"\n{line.rstrip()}" in reference, line


def test_a_field_without_a_mark_anywhere_is_an_error() -> None:
    class Forgotten(Section):
        knob: int = 0

    class Root(Section):
        part: Forgotten = Forgotten()

    with pytest.raises(LookupError, match=r"part\.knob: no mark; give the field, or its section, a Change"):
        change_of(Root, ["part", "knob"])
    with pytest.raises(LookupError, match="no field is called knob"):
        change_of(Config, ["training", "knob"])


def test_a_model_may_be_called_like_a_key() -> None:
    assert change_of(Config, ["teachers", "model", "gpus"]) is Change.FREE
    assert change_of(Config, ["teachers", "gpus", "model"]) is Change.FIXED
    assert issubclass(Teacher, PromptedModel)
