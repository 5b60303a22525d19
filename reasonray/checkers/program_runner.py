"""The process in the sandbox that runs a model's program. It is sent there as text, and imports nothing of ours.

Its last two arguments are open files: a job to read, and a channel for its reports, a JSON line for each test. A result
is reported as data, its type by name, so that what a class of the program says about equality decides nothing. What it
needs after the program has run is bound before, so that the program cannot patch it.
"""

import json
import os
import sys
import types
from typing import Any

_KINDS: tuple[type, ...] = (bool, int, float, str, list, tuple, dict, set, frozenset, complex, bytes)
_SEQUENCES: dict[Any, str] = {list: "list", tuple: "tuple", set: "set", frozenset: "set"}


def main() -> None:
    """Run the job's program: as a script, or as a module whose functions are called."""
    with os.fdopen(int(sys.argv[-2]), encoding="utf-8") as file:
        job = json.load(file)
    channel = int(sys.argv[-1])
    sys.argv = ["solution.py"]
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)  # programs may print numbers of any length within their limit of output
    if "items" in job:
        _run_tests(job, channel)
    else:
        os.close(channel)
        _run_script(job)


def _run_script(job: dict[str, Any]) -> None:
    names = sys.modules["__main__"].__dict__
    code = [compile(text, "solution.py", "exec") for text in (job["imports"], job["code"])]
    builtins = names["__builtins__"]
    names.clear()
    names.update(__name__="__main__", __builtins__=builtins)
    for part in code:
        exec(part, names)


def _run_tests(job: dict[str, Any], channel: int) -> None:
    write, dumps, data = os.write, json.dumps, _data
    module = sys.modules["solution"] = types.ModuleType("solution")
    names = module.__dict__
    exec(compile(job["imports"], "solution.py", "exec"), names)
    exec(compile(job["code"], "solution.py", "exec"), names)
    for item in job["items"]:
        try:
            if "assert" in item:
                exec(compile(item["assert"], "tests.py", "exec"), names)
                report = {"token": job["token"]}
            elif "value" in item:
                report = {"result": data(eval(compile(item["value"], "tests.py", "eval"), names))}
            else:
                report = {"result": data(_target(names, item["function"])(*item["args"], **item["kwargs"]))}
        except BaseException as error:
            report = {"error": f"{type(error).__name__}: {error}"[:200]}
        line = dumps(report).encode() + b"\n"
        while line:
            line = line[write(channel, line) :]


def _target(names: dict[str, Any], path: str) -> Any:
    """Return a function by its path; a method of the class Solution goes without the class, too."""
    first, *parts = path.split(".")
    if first not in names and not parts and isinstance(names.get("Solution"), type):
        first, parts = "Solution", [first]
    target = names[first]
    for part in parts:
        target = getattr(target() if isinstance(target, type) else target, part)
    return target


def _data(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON that names its type; objects of the program's classes are read as what they inherit."""
    if value is None or depth > 100:
        return None if value is None else {"other": "a value nested too deep"}
    kind: Any = next((kind for kind in _KINDS if issubclass(type(value), kind)), None)
    if kind is None:
        return _foreign(value, depth)
    if kind in (bool, int, float, str):
        return value  # json writes the data of a subclass, whatever its methods say
    if kind is dict:
        pairs = dict.items(value)
        return {"dict": [[_data(key, depth + 1), _data(each, depth + 1)] for key, each in pairs]}
    if kind in _SEQUENCES:
        return {_SEQUENCES[kind]: [_data(each, depth + 1) for each in kind.__iter__(value)]}
    return {"complex": [value.real, value.imag]} if kind is complex else {"bytes": bytes(value).hex()}


def _foreign(value: Any, depth: int) -> Any:
    """Return an array's or a number's data, or the name of a type that has none."""
    name = type(value).__name__
    if name in ("Fraction", "Decimal"):
        return {"number": str(value)}
    if hasattr(value, "tolist"):
        return _data(value.tolist(), depth + 1)
    return {"other": name}


if __name__ == "__main__":
    main()
