"""What may change in the configuration of a run that has begun: extend it, don't redo it. Pure.

Where work runs and what it may cost is free. More can be asked of a run: another policy, a larger K, a larger
max_tokens, more problems, more teachers, other curation, other training: a student that was trained otherwise is put
aside (stages/train.py). What is part of a rollout's identity cannot change under the same name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from reasonray.config import Training

_FREE = re.compile(
    r"(root|(teachers\.[^.]+|sources\.\d+)\.license"
    r"|(teachers\.[^.]+|student|evaluation\.arms\.[^.]+)\.(replicas(\.\d)?|gpus|cpus|pipeline)"
    r"|teachers\.[^.]+\.extend_truncated"
    rf"|training\.({'|'.join(sorted(Training.PLACES))})(\.\d+)?"
    r"|checking\.(processes|judge\.(replicas(\.\d)?|gpus|cpus|pipeline))|(budget|failures)\..+)$"
)
"""Keys that say where work runs and what it may cost, not what it yields."""
_ASKS_FOR_MORE = re.compile(
    r"(policy\..+|checking\..+|curation\..+|training\..+|sources(\..+)?|evaluation\.(samples|cluster|k(\..+)?)|teachers\.[^.]+\.share)$"
)


def incompatibility(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Say why a run cannot go on with another configuration: the field and the cure; "" if it can.

    Args:
        before: the configuration that the run has, as plain values.
        after: the one that is asked for.
    """
    old, new = flatten(before), flatten(after)
    known, asked = _named(before), _named(after)
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if was == now or _FREE.match(key) or _ASKS_FOR_MORE.match(key):
            continue
        owner = next((it for it in known | asked if key.startswith(f"{it}.")), "")
        if key in ("teachers", "evaluation.arms") or (owner and not (owner in known and owner in asked)):
            continue  # one that is new, or gone: what it has drawn stays
        if owner.startswith("teachers.") and key == f"{owner}.sampling.max_tokens" and (now or 0) > (was or 0):
            continue
        name = "the run" if not owner else "the teacher" if owner.startswith("teachers.") else "the arm"
        return (
            f"was begun with {key} = {_show(was)}, now it is {_show(now)}; give {name} another name, "
            "or set the field back (nothing was changed)"
        )
    return ""


def is_extension(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Say whether an allowed change asks for more than other places to run at."""
    old, new = flatten(before), flatten(after)
    return any(old.get(key) != new.get(key) and not _FREE.match(key) for key in old.keys() | new.keys())


def flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's values by dotted key; teachers and arms by their names, other lists by number."""
    arms = {it["name"]: it for it in config["evaluation"].get("arms", ())}
    teachers = {it["name"]: it for it in config["teachers"]}
    return _flatten(dict(config) | {"teachers": teachers, "evaluation": config["evaluation"] | {"arms": arms}})


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else None
    if not children:
        return {prefix.rstrip("."): node}
    return {key: value for name, child in children for key, value in _flatten(child, f"{prefix}{name}.").items()}


def _named(config: Mapping[str, Any]) -> set[str]:
    """Return the keys of what has a name: each may come or go, but stays what it is under its name."""
    arms = config["evaluation"].get("arms", ())
    return {f"teachers.{it['name']}" for it in config["teachers"]} | {f"evaluation.arms.{it['name']}" for it in arms}


def _show(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
