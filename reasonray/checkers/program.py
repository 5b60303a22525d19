"""Programs, judged by running them (checkers/sandbox.py): Python against inputs and outputs, asserts, or calls.

The program is the last fenced Python block of the response, or all of it where that is a program. What it must do
stands in the problem's metadata, in one of three forms:

    tests       [{"stdin": …, "stdout": …}, …], or {"inputs": […], "outputs": […]} (also as JSON text)
    asserts     ["assert f(2) == 4", …]
    function    "f" or "Solution.f", and calls [{"args": […], "kwargs": {…}, "result": …}, …]

Expected outputs and results never come near the program: they are compared outside. Asserts run in its own process, and
count only with a token that it is not told; a program that leaves early fails. One that is too slow, too large or too
loud is wrong, for these are faults of its own.
"""

from __future__ import annotations

import ast
import json
import math
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from reasonray.answers import Found
from reasonray.checkers import sandbox
from reasonray.checkers.sandbox import Ended, Limits
from reasonray.records import Outcome, Problem

NEEDS_NO_ANSWER = True

_FENCE = re.compile(r"^[ \t]*```[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*```[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_LANGUAGES = ("python", "python3", "py")
_FORMS = ("tests", "asserts", "function")
_LISTS = {"asserts": "asserts", "function": "calls"}
_limits = Limits()

_SCRIPT = """
import os, sys
with open(int(sys.argv[-2]), encoding="utf-8") as file:
    code = compile(file.read(), "solution.py", "exec")
os.close(int(sys.argv[-1]))
sys.argv = ["solution.py"]
del os, sys, file
exec(code)
"""
_LOADED = """
def _run():
    import json, os, sys
    with open(int(sys.argv[-2]), encoding="utf-8") as file:
        job = json.load(file)
    channel, write, dump = int(sys.argv[-1]), os.write, json.dumps
    sys.argv = ["solution.py"]
    names = {"__name__": "solution", "__builtins__": __builtins__}
    exec(compile(job["code"], "solution.py", "exec"), names)
"""
"""The program runs as a module of its own; what reports of it is bound before, whatever the program patches."""
_ASSERTS = (
    _LOADED
    + """\
    for number, line in enumerate(job["asserts"]):
        try:
            exec(compile(line, "tests.py", "exec"), names)
        except BaseException as error:
            write(channel, dump({"number": number, "error": f"{type(error).__name__}: {error}"[:200]}).encode())
            return
    write(channel, dump({"token": job["token"]}).encode())
_run()
"""
)
_CALLS = (
    _LOADED
    + """\
    for call in job["calls"]:
        found = names
        for part in job["function"].split("."):
            found = found[part] if found is names else getattr(found() if isinstance(found, type) else found, part)
        try:
            result = found(*call["args"], **call["kwargs"])
            try:
                line = dump({"result": result})
            except (TypeError, ValueError, RecursionError):
                line = dump({"error": f"returns {type(result).__name__}, which is no JSON"})
        except BaseException as error:
            line = dump({"error": f"{type(error).__name__}: {error}"[:200]})
        line = line.encode() + b"\\n"
        while line:
            line = line[write(channel, line):]
_run()
"""
)


def configure(limits: Limits) -> None:
    """Set the limits of all programs that this process checks."""
    global _limits
    _limits = limits


def extract(problem: Problem, response: str) -> Found | None:
    """Return the program in a response: of several blocks the last, or the last one that has the function asked for."""
    blocks = [match for match in _FENCE.finditer(response) if match[1].lower() in (*_LANGUAGES, "")]
    if not blocks:
        return Found(response.strip(), "bare", False) if _is_program(response) else None
    marked = [match for match in blocks if match[1]] or blocks
    name = str(problem.metadata.get("function", "")).partition(".")[0]
    named = [it for it in marked if name and re.search(rf"\b(?:def|class)[ \t]+{re.escape(name)}\b", it[2])] or marked
    return Found(named[-1][2], "code block", named[-1][0].rstrip().endswith("```"))


def compare(problem: Problem, answer: str) -> tuple[Outcome, str]:
    """Run a program against its tests, up to the first that it fails.

    Raises:
        UserError: no sandbox can be made on this machine.
    """
    if reason := unverifiable(problem):
        return Outcome.UNVERIFIABLE, reason
    sandbox.refuse_without(_limits)
    metadata = problem.metadata
    if "tests" in metadata:
        return _against_tests(answer, _tests(metadata["tests"]), metadata.get("float_tolerance"))
    if "asserts" in metadata:
        return _against_asserts(answer, _listed(metadata["asserts"]))
    return _against_calls(answer, metadata["function"], _listed(metadata["calls"]), metadata.get("float_tolerance"))


def unverifiable(problem: Problem) -> str | None:
    """Return why no program can be judged by the problem's metadata, None if it can."""
    metadata = problem.metadata
    forms = [form for form in _FORMS if form in metadata]
    if len(forms) != 1:
        return f"metadata must have one of {', '.join(_FORMS)}; it has {', '.join(forms) or 'none'}"
    try:
        found = _tests(metadata["tests"]) if forms == ["tests"] else _listed(metadata[_LISTS[forms[0]]])
    except (KeyError, TypeError, ValueError) as error:
        return f"its {forms[0]} cannot be read: {type(error).__name__} {error}"
    if not found:
        return f"there are no {'calls' if forms[0] == 'function' else forms[0]}"
    if forms[0] == "asserts" and not all(isinstance(line, str) for line in found):
        return "asserts must be texts"
    if forms[0] == "function" and not all(isinstance(call, Mapping) and "result" in call for call in found):
        return "every call must name its result"
    return None


def _against_tests(code: str, tests: Sequence[tuple[str, str]], tolerance: float | None) -> tuple[Outcome, str]:
    deadline = time.monotonic() + _limits.seconds
    for number, (given, expected) in enumerate(tests, 1):
        left = deadline - time.monotonic()
        ended = sandbox.run(_SCRIPT, stdin=given.encode(), job=code.encode(), limits=_limits, seconds=max(0.0, left))
        fault = _fault(ended) or _difference(ended.output.decode(errors="replace"), expected, tolerance)
        if fault:
            return Outcome.WRONG, f"test {number} of {len(tests)}: {fault}"
    return Outcome.CORRECT, f"{len(tests)} tests"


def _against_asserts(code: str, asserts: Sequence[str]) -> tuple[Outcome, str]:
    token = secrets.token_hex(16)
    job = json.dumps({"code": code, "asserts": list(asserts), "token": token}).encode()
    ended = sandbox.run(_ASSERTS, stdin=b"", job=job, limits=_limits, seconds=_limits.seconds)
    told = _lines(ended.report)
    if told == [{"token": token}]:
        return Outcome.CORRECT, f"{len(asserts)} asserts"
    if told and "number" in told[0] and "error" in told[0]:
        return Outcome.WRONG, f"assert {told[0]['number'] + 1} of {len(asserts)}: {told[0]['error']}"
    return Outcome.WRONG, _fault(ended) or "it ends before its tests"


def _against_calls(
    code: str, function: str, calls: Sequence[Mapping[str, Any]], tolerance: float | None
) -> tuple[Outcome, str]:
    asked = [{"args": list(call.get("args", ())), "kwargs": dict(call.get("kwargs", {}))} for call in calls]
    job = json.dumps({"code": code, "function": function, "calls": asked}).encode()
    ended = sandbox.run(_CALLS, stdin=b"", job=job, limits=_limits, seconds=_limits.seconds)
    told = _lines(ended.report)
    for number, (call, line) in enumerate(zip(calls, told, strict=False), 1):
        fault = line.get("error")
        if not fault and not _same(line.get("result"), call["result"], tolerance):
            fault = f"returns {_short(line.get('result'))}, not {_short(call['result'])}"
        if fault:
            return Outcome.WRONG, f"call {number} of {len(calls)}: {fault}"
    if len(told) < len(calls):
        return Outcome.WRONG, f"call {len(told) + 1} of {len(calls)}: {_fault(ended) or 'it ends before it'}"
    return Outcome.CORRECT, f"{len(calls)} calls"


def _fault(ended: Ended) -> str:
    """Return why a program did not end well, "" if it did."""
    if ended.limit or ended.status == 0:
        return ended.limit
    last = ended.errors.decode(errors="replace").strip().rpartition("\n")[2][:200]
    return last or (f"ended by signal {-ended.status}" if ended.status < 0 else f"exit status {ended.status}")


def _difference(output: str, expected: str, tolerance: float | None) -> str:
    """Return the first difference; blanks at the end of lines and of all say nothing."""
    found, wanted = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (output, expected))
    for number, (line, right) in enumerate(zip(found, wanted, strict=False), 1):
        if line != right and not (tolerance is not None and _close(line, right, tolerance)):
            return f"line {number} is {_short(line)}, not {_short(right)}"
    return "" if len(found) == len(wanted) else f"{len(found)} lines, not {len(wanted)}"


def _close(line: str, right: str, tolerance: float) -> bool:
    pairs = list(zip(line.split(), right.split(), strict=False))
    if len(line.split()) != len(right.split()):
        return False
    return all(one == other or _same(_number(one), _number(other), tolerance) for one, other in pairs)


def _number(token: str) -> float | None:
    try:
        return float(token)
    except ValueError:
        return None


def _same(found: Any, wanted: Any, tolerance: float | None) -> bool:
    """Compare values of JSON; numbers within a tolerance, absolute or relative, whichever is wider."""
    if isinstance(wanted, bool) or isinstance(found, bool):
        return found is wanted
    if isinstance(wanted, int | float) and isinstance(found, int | float):
        within = tolerance is not None and math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)
        return found == wanted or within
    if isinstance(wanted, list) and isinstance(found, list):
        pairs = zip(found, wanted, strict=False)
        return len(found) == len(wanted) and all(_same(one, other, tolerance) for one, other in pairs)
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        return found.keys() == wanted.keys() and all(_same(found[key], wanted[key], tolerance) for key in wanted)
    return (found is not None and type(found) is type(wanted) and bool(found == wanted)) or (found is None is wanted)


def _tests(given: Any) -> list[tuple[str, str]]:
    given = json.loads(given) if isinstance(given, str) else given
    if isinstance(given, Mapping):
        pairs = list(zip(given["inputs"], given["outputs"], strict=True))
    else:
        pairs = [(test.get("stdin", ""), test["stdout"]) for test in given]
    return [(_as_text(stdin), _as_text(stdout)) for stdin, stdout in pairs]


def _as_text(given: Any) -> str:
    return "\n".join(map(str, given)) if isinstance(given, list) else str(given)


def _listed(given: Any) -> list[Any]:
    return list(json.loads(given) if isinstance(given, str) else given)


def _lines(report: bytes) -> list[dict[str, Any]]:
    """Return what our lines reported; the program may have scribbled on their channel."""
    found = []
    for line in report.splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            break
        if not isinstance(told, dict):
            break
        found.append(told)
    return found


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_program(text: str) -> bool:
    """Say whether a text is Python that does anything: a bare word or number is none."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(it, ast.Expr) or isinstance(it.value, ast.Call) for it in body)
