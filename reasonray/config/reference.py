"""The reference of all knobs, as Markdown: key, default, type, whether it may change, and what it does.

It is made from the section classes: their annotations, defaults, marks and docstrings.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path as FilePath
from textwrap import fill
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from reasonray.config import Config
from reasonray.config.changes import change_of, is_list, sections_in
from reasonray.config.models import PromptedModel
from reasonray.config.section import Change, Section
from reasonray.config.stages import Judge

Path = tuple[str, ...]

_WIDTH = 120
_README = FilePath(__file__).parent / "README.md"
_GENERATED = "<!-- Everything below is generated: python -m reasonray.config -->\n"
_MEANINGS = {
    Change.FREE: "may change at any time: where work runs, what it may cost, how results are labelled",
    Change.EXTENDS: "may change; the run then does what is missing, and keeps what is finished and still asked for",
    Change.RAISES: "a larger value extends the run, a smaller one is refused",
    Change.FIXED: "cannot change once the run has begun; give the run, the teacher or the arm another name instead",
}


def config_reference() -> str:
    """Return all knobs of the configuration as Markdown, with a heading for each section."""
    lines = [f"- *{change.value}*: {meaning}." for change, meaning in _MEANINGS.items()]
    grouped = set()
    for section, places in _places().items():
        key = places[0][0] if places[0] else ""
        if _is_one_of_several(section) and len(places[0]) <= 2 and key not in grouped:
            grouped.add(key)
            lines += ["", f"## {_table(places[0])}", "", _wrapped(field_docstring(Config, key))]
        lines += _describe(section)
    return "\n".join(lines) + "\n"


@cache
def _places() -> dict[type[Section], list[Path]]:
    """Return where each section may be in a configuration, in the order in which sections are described."""
    places: dict[type[Section], list[Path]] = {}

    def visit(section: type[Section], path: Path) -> None:
        places.setdefault(section, [])
        if path not in places[section]:
            places[section].append(path)
        if issubclass(section, PromptedModel):  # described once, for all models
            places.setdefault(PromptedModel, []).append(path)
        for name, field in section.model_fields.items():
            for held in sections_in(field.annotation):
                visit(held, (*path, name, "0") if is_list(field.annotation) else (*path, name))

    visit(Config, ())
    return places


def _describe(section: type[Section]) -> Iterator[str]:
    """Yield the lines on one section: heading, docstring, and a list of its own fields."""
    is_nested = len(_places()[section][0]) > 2 or _is_one_of_several(section)
    level = "###" if is_nested and section is not PromptedModel else "##"
    yield from ("", f"{level} {_heading(section)}", "", _wrapped(inspect.cleandoc(section.__doc__ or "")), "")
    if section is Judge:
        yield from _marks_of_judges()
    for name in _own_fields(section):
        field = section.model_fields[name]
        facts = [_default(field), _type(field.annotation, field.metadata), _change(section, name)]
        yield f"- **`{name}`** {' · '.join(filter(None, facts))}  "
        yield _wrapped(field_docstring(section, name), indent="  ")


def _is_one_of_several(section: type[Section]) -> bool:
    return "kind" in section.model_fields


def _own_fields(section: type[Section]) -> list[str]:
    """Return the fields to describe in a section: those of the run without its sections, and of models once."""
    own = list(inspect.get_annotations(section))
    fields = sorted(section.model_fields, key=lambda name: own.index(name) if name in own else len(own))
    if section is Config:
        return [name for name in fields if not sections_in(section.model_fields[name].annotation)]
    if issubclass(section, PromptedModel) and section is not PromptedModel:
        return [name for name in fields if name in own or name not in PromptedModel.model_fields]
    return [name for name in fields if name != "kind"]


def _marks_of_judges() -> Iterator[str]:
    """Yield how the fields of judges may change: not as those of the other models."""
    for place in _places()[Judge]:
        marks = {name: change_of(Config, (*place, name)) for name in PromptedModel.model_fields}
        names_by_mark = {
            mark: ", ".join(f"`{name}`" for name in marks if marks[name] is mark)
            for mark in dict.fromkeys(marks.values())
        }
        listed = "; ".join(f"*{mark.value}*: {names}" for mark, names in names_by_mark.items())
        yield f"Keys of {_table(place)} that are {listed}."
        yield ""


def _heading(section: type[Section]) -> str:
    """Return a section's heading: its table in TOML, or the key that holds it in every model."""
    if section is Config:
        return "The run"
    if section is PromptedModel:
        return f"Every model: {', '.join(map(_table, _places()[section]))}"
    kind = section.model_fields.get("kind")
    suffix = ""
    if kind is not None:
        (value,) = get_args(kind.annotation)
        suffix = f', `kind = "{value}"`' + ("" if kind.is_required() else " (the default)")
    models = _places()[PromptedModel]
    keys = [place[len(model) :] for place in _places()[section] for model in models if _is_within(place, model)]
    if keys and all(keys):
        return f"`{'.'.join(part for part in keys[0] if part != '0')}` of a model{suffix}"
    return " and ".join(map(_table, _places()[section])) + suffix


def _table(path: Path) -> str:
    name = ".".join(part for part in path if part != "0")
    return f"`[[{name}]]`" if path[-1] == "0" else f"`[{name}]`"


def _default(field: FieldInfo) -> str:
    """Return a field's default in words; "" for sections, which are described by themselves."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Section):
        return ""
    if value is None:
        return "unset"
    return f"= `{json.dumps(value)}`"


def _type(annotation: Any, metadata: list[Any]) -> str:
    """Return a type in words."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        return _type(inner, more)
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_type(part, metadata) for part in arguments if part is not NoneType))
    if origin is Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if sections_in(annotation):
        return "list of sections" if origin is tuple else "section"
    if origin is tuple:
        return f"list of {_type(arguments[0], [])}" if Ellipsis in arguments else "[least, most]"
    if origin is dict:
        return "table" if arguments[1] is Any else f"table of {_type(arguments[1], [])}"
    if annotation in (int, float):
        return " ".join(filter(None, ["integer" if annotation is int else "number", _range(annotation, metadata)]))
    return {str: "string", bool: "true or false"}[annotation]


def _range(number: type, metadata: list[Any]) -> str:
    """Return the bounds of a number in words."""
    for mark in metadata:  # a Field within Annotated keeps its bounds in its own metadata
        if isinstance(mark, FieldInfo):
            return _range(number, mark.metadata)
    bounds = []
    for mark in metadata:
        if isinstance(mark, Ge):
            bounds.append(f"≥ {mark.ge}")
        elif isinstance(mark, Gt):
            bounds.append("≥ 1" if number is int and mark.gt == 0 else f"> {mark.gt}")
        elif isinstance(mark, Le):
            bounds.append(f"≤ {mark.le}")
        elif isinstance(mark, Lt):
            bounds.append(f"< {mark.lt}")
    return "from 0 to 1" if bounds == ["≥ 0", "≤ 1"] else " and ".join(bounds)


def _change(section: type[Section], name: str) -> str:
    """Return whether a field may change, with the models in which another mark applies; without judges."""
    judges = _places()[Judge]
    places = [place for place in _places()[section] if not any(_is_within(place, judge) for judge in judges)]
    marks = {place: change_of(Config, (*place, name)) for place in places or judges}
    ((usual, _), *_) = Counter(marks.values()).most_common()
    exceptions = [f"{mark.value} in `{_model_of(place)}`" for place, mark in marks.items() if mark is not usual]
    return f"*{'; '.join([usual.value, *exceptions])}*"


def _is_within(place: Path, model: Path) -> bool:
    return place[: len(model)] == model


def _model_of(place: Path) -> str:
    model = next(model for model in _places()[PromptedModel] if _is_within(place, model))
    return ".".join(part for part in model if part != "0")


def field_docstring(section: type[Section], name: str) -> str:
    """Return the docstring below a field, "" if there is none."""
    owner = next(base for base in section.__mro__ if name in inspect.get_annotations(base))
    return _docstrings(owner.__module__).get((owner.__name__, name), "")


@cache
def _docstrings(module: str) -> dict[tuple[str, str], str]:
    """Return the docstrings of the fields of a module's classes, by class and field."""
    docstrings = {}
    for node in ast.parse(inspect.getsource(sys.modules[module])).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for field, following in zip(node.body, node.body[1:], strict=False):
            match field, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docstrings[node.name, name] = inspect.cleandoc(text)
    return docstrings


def _wrapped(text: str, indent: str = "") -> str:
    paragraphs = [
        fill(
            " ".join(paragraph.split()),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for paragraph in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


def readme() -> str:
    """Return the room's README.md: its hand-written head, and the reference."""
    head, mark, _ = _README.read_text(encoding="utf-8").partition(_GENERATED)
    return f"{head}{mark}\n{config_reference()}"


def write_readme() -> None:
    """Bring the reference in the room's README.md up to date."""
    _README.write_text(readme(), encoding="utf-8")
