"""The marks of fields: whether a value may change once a run has begun."""

from __future__ import annotations

from collections.abc import Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from reasonray.config.section import Change, Section, Within


def change_of(root: type[Section], path: Sequence[str]) -> Change:
    """Return the mark of the value at a path.

    Args:
        root: the section in which the path begins.
        path: keys of sections and tables; entries of lists by their number or name.

    Raises:
        LookupError: neither a field on the path nor a section carries a mark, or there is no such field.
    """
    change: Change | None = None
    sections, within = [root], dict[str, Change]()
    keys = iter(path)
    for key in keys:
        change = next((section.CHANGE for section in sections if section.CHANGE), change)
        fields = [section.model_fields[key] for section in sections if key in section.model_fields]
        if not fields:
            raise LookupError(f"{'.'.join(path)}: no field is called {key}")
        marks = {within.get(key, mark_of(field) or change) for field in fields}
        if len(marks) > 1:
            raise LookupError(f"{'.'.join(path)}: sections that share this key carry different marks")
        (change,) = marks
        within = {name: mark.change for mark in _withins(fields[0]) for name in mark.keys}
        sections = [section for field in fields for section in sections_in(field.annotation)]
        if not sections:  # a value, or a list or table of values: all of it has the field's mark, or that of its key
            change = within.get(next(keys, ""), change)
            break
        if is_list(fields[0].annotation):
            next(keys, None)  # the number or name of an entry
    if change is None:
        raise LookupError(f"{'.'.join(path)}: no mark; give the field, or its section, a Change")
    return change


def free_fields(section: type[Section]) -> frozenset[str]:
    """Return the fields of a section that affect placement, cost and logging only."""
    return frozenset(name for name in section.model_fields if change_of(section, [name]) is Change.FREE)


def mark_of(field: FieldInfo) -> Change | None:
    """Return the mark of a field itself, None if it has none."""
    return next((mark for mark in field.metadata if isinstance(mark, Change)), None)


def _withins(field: FieldInfo) -> list[Within]:
    return [mark for mark in field.metadata if isinstance(mark, Within)]


def sections_in(annotation: Any) -> list[type[Section]]:
    """Return the sections that a field of this type holds: one, several kinds of them, a list of them, or none."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, UnionType, tuple):
        return [section for argument in get_args(annotation) for section in sections_in(argument)]
    return []


def is_list(annotation: Any) -> bool:
    """Return whether a field of this type holds a list."""
    return get_origin(annotation) is tuple
