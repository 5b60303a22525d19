"""The changes that the configuration of a run that has begun may undergo. Pure.

Each field of the configuration carries a mark (config/section.py): placement and cost are free, more work extends the
run, and what is part of a rollout's identity cannot change. Teachers and arms may come and go. One that stays keeps
its fields. A student that was trained with other settings is moved aside by the train stage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reasonray.config import Config
from reasonray.config.changes import change_of
from reasonray.config.section import Change

Path = tuple[str, ...]


def incompatibility(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return why a run cannot continue with another configuration: the first field and the cure; "" if it can.

    Args:
        before: the configuration of the run, as plain values.
        after: the other configuration.
    """
    old, new = values_by_path(before), values_by_path(after)
    kept = _named_models(before) & _named_models(after)
    for path in sorted(old.keys() | new.keys(), key=".".join):
        was, now = old.get(path), new.get(path)
        owner = _owner(path)
        if was == now or (owner and owner not in kept):  # a model that is new, or gone: its rollouts stay
            continue
        change = change_of(Config, path)
        if change in (Change.FREE, Change.EXTENDS) or (change is Change.RAISES and (now or 0) > (was or 0)):
            continue
        name = "the run" if not owner else "the teacher" if owner[0] == "teachers" else "the arm"
        return (
            f"was begun with {'.'.join(path)} = {_show(was)}, now it is {_show(now)}; give {name} another name, "
            "or set the field back (nothing was changed)"
        )
    return ""


def is_extension(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Return whether an allowed change affects more than placement and cost."""
    old, new = values_by_path(before), values_by_path(after)
    changed = (path for path in old.keys() | new.keys() if old.get(path) != new.get(path))
    return any(change_of(Config, path) is not Change.FREE for path in changed)


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values by dotted key, as `values_by_path`."""
    return {".".join(path): value for path, value in values_by_path(config).items()}


def values_by_path(config: Mapping[str, Any]) -> dict[Path, Any]:
    """Return a configuration's values by their path; teachers and arms by their names, other lists by number."""
    arms = {arm["name"]: arm for arm in config["evaluation"].get("arms", ())}
    teachers = {teacher["name"]: teacher for teacher in config["teachers"]}
    return _leaves(dict(config) | {"teachers": teachers, "evaluation": config["evaluation"] | {"arms": arms}}, ())


def _leaves(node: Any, path: Path) -> dict[Path, Any]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if not children:
        return {path: node}
    return {leaf: value for key, child in children for leaf, value in _leaves(child, (*path, str(key))).items()}


def _named_models(config: Mapping[str, Any]) -> set[Path]:
    """Return the paths of the teachers and arms of a configuration."""
    arms = config["evaluation"].get("arms", ())
    return {("teachers", teacher["name"]) for teacher in config["teachers"]} | {
        ("evaluation", "arms", arm["name"]) for arm in arms
    }


def _owner(path: Path) -> Path:
    """Return the path of the teacher or arm that a value belongs to, () if it belongs to none."""
    if path[0] == "teachers":
        return path[:2] if len(path) > 2 else ()
    return path[:3] if path[:2] == ("evaluation", "arms") and len(path) > 3 else ()


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
