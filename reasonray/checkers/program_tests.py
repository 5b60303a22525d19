"""The tests of a program, read from a problem's metadata in the forms that data sets have.

    tests       [{"stdin": …, "stdout": …}, …], [{"input": …, "output": …}, …] or {"inputs": […], "outputs": […]}
    asserts     ["assert f(2) == 4", …]
    function    "f" or "Solution.f", and calls [{"args": […], "kwargs": {…}, "result": …}, …]

Any of them may be JSON text. Tests that name a function (`fn_name`, as APPS and TACO do, or `function` next to `tests`)
are calls: an input is a list of arguments, or a text with one argument a line in JSON, as in LiveCodeBench.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

_FORMS = ("tests", "asserts", "calls")
_FUNCTION_KEYS = ("fn_name", "function", "func_name", "entry_point")
_MAX_DIGITS = 4000


@dataclass(frozen=True, slots=True)
class Script:
    """A run of the program as a script."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function of the program."""

    function: str
    args: Sequence[Any]
    result: Any
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_wrapped: bool = False
    """The result may be the only item of a list, as in APPS."""


@dataclass(frozen=True, slots=True)
class Assertion:
    """A line of Python that must not raise."""

    source: str
    value: str = ""
    """The expression that the line compares with a literal, "" if it does something else."""
    expected: Any = None


Tests = Sequence[Script | Call | Assertion]


def read_tests(metadata: Mapping[str, Any]) -> Tests:
    """Return the tests of a problem's metadata.

    Raises:
        ValueError: there is not one form of tests, or it cannot be read.
    """
    forms = [form for form in _FORMS if form in metadata]
    if len(forms) != 1:
        found = ", ".join(forms) or "none"
        raise ValueError(f"metadata must have one of tests, asserts, function with calls; it has {found}")
    form = forms[0]
    try:
        given = _loaded(metadata[form])
        if form == "tests":
            tests: Tests = _of_inputs(given, metadata)
        elif form == "asserts":
            tests = [_assertion(line) for line in given]
        else:
            function = str(metadata["function"])
            tests = [
                Call(function, list(each.get("args", ())), each["result"], each.get("kwargs", {})) for each in given
            ]
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"its {form} cannot be read: {type(error).__name__} {error}") from None
    if not tests:
        raise ValueError(f"there are no {form}")
    return tests


def _call(function: str, call: Mapping[str, Any]) -> Call:
    return Call(function, list(call.get("args", ())), call["result"], dict(call.get("kwargs", {})))


def _loaded(given: Any) -> Any:
    return loads(given) if isinstance(given, str) else given


def loads(text: str | bytes) -> Any:
    """Return JSON data. Integers beyond Python's limit of digits are read as decimals, which compare equal to them."""
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) <= _MAX_DIGITS else Decimal(digits))


def _of_inputs(given: Any, metadata: Mapping[str, Any]) -> Tests:
    if isinstance(given, Mapping):
        function = next((given[key] for key in _FUNCTION_KEYS if given.get(key)), None)
        pairs = list(zip(given["inputs"], given["outputs"], strict=True))
    else:
        function = None
        pairs = [_pair(test) for test in given]
    function = function or next((metadata[key] for key in _FUNCTION_KEYS if metadata.get(key)), None)
    if function:
        return [Call(str(function), _arguments(each), _result(result), is_wrapped=True) for each, result in pairs]
    return [Script(_as_text(stdin), _as_text(stdout)) for stdin, stdout in pairs]


def _pair(test: Mapping[str, Any]) -> tuple[Any, Any]:
    if "output" in test and "stdout" not in test:
        return test.get("input", ""), test["output"]
    return test.get("stdin", ""), test["stdout"]


def _arguments(given: Any) -> list[Any]:
    """Return the arguments of a call: a list, or a text with one in each line in JSON."""
    if isinstance(given, str):
        return [loads(line) for line in given.splitlines() if line.strip()]
    return list(given) if isinstance(given, list | tuple) else [given]


def _result(given: Any) -> Any:
    """Return a result that may be JSON in a text; a text that is not JSON is the result itself."""
    if not isinstance(given, str):
        return given
    try:
        return loads(given)
    except (ValueError, RecursionError):
        return given


def _assertion(line: Any) -> Assertion:
    if not isinstance(line, str):
        raise TypeError("asserts must be texts")
    try:
        body = ast.parse(line.strip()).body
    except (SyntaxError, MemoryError):
        return Assertion(line)
    test = body[0].test if len(body) == 1 and isinstance(body[0], ast.Assert) else None
    if not isinstance(test, ast.Compare) or len(test.ops) != 1 or not isinstance(test.ops[0], ast.Eq | ast.Is):
        return Assertion(line)
    for value, literal in ((test.left, test.comparators[0]), (test.comparators[0], test.left)):
        try:
            return Assertion(line, ast.unparse(value), ast.literal_eval(literal))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue
    return Assertion(line)


def _as_text(lines: Any) -> str:
    return "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines)
