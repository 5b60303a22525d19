"""Programs, judged by running them (checkers/sandbox.py): Python against inputs and outputs, asserts or calls.

The program is the last fenced Python block of the response, or the whole response if it is a program. The problem's
metadata give the tests, in one of three forms:

    tests       [{"stdin": …, "stdout": …}, …], or {"inputs": […], "outputs": […]} (also as JSON text)
    asserts     ["assert f(2) == 4", …]
    function    "f" or "Solution.f", and calls [{"args": […], "kwargs": {…}, "result": …}, …]

Expected outputs and results never reach the program's process: they are compared outside. Asserts run inside it, and
count only with a token that the program does not know; a program that exits early fails. A program that exceeds its
limits of time, memory or output is wrong, because these faults are its own.
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

from reasonray.answers import ExtractedAnswer
from reasonray.checkers import sandbox
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.sandbox import Execution, Limits
from reasonray.records import Outcome, Problem

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
"""Runs the program as a module of its own. The functions that report are bound before it can patch them."""
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
        target = names
        for part in job["function"].split("."):
            if target is names:
                target = names[part]
            else:
                target = getattr(target() if isinstance(target, type) else target, part)
        try:
            result = target(*call["args"], **call["kwargs"])
            try:
                line = dump({"result": result})
            except (TypeError, ValueError, RecursionError):
                line = dump({"error": f"returns {type(result).__name__}, which is not JSON"})
        except BaseException as error:
            line = dump({"error": f"{type(error).__name__}: {error}"[:200]})
        line = line.encode() + b"\\n"
        while line:
            line = line[write(channel, line):]
_run()
"""
)


def configure(limits: Limits) -> None:
    """Set the limits of all programs that this process runs."""
    global _limits
    _limits = limits


class Program(Checker):
    """Runs a program against its tests. No gold answer is needed, because the tests are in the metadata."""

    needs_answer = False

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why the problem's metadata cannot judge any program, or None if they can."""
        metadata = problem.metadata
        forms = [form for form in _FORMS if form in metadata]
        if len(forms) != 1:
            return f"metadata must have one of {', '.join(_FORMS)}; it has {', '.join(forms) or 'none'}"
        try:
            tests = _tests(metadata["tests"]) if forms == ["tests"] else _listed(metadata[_LISTS[forms[0]]])
        except (KeyError, TypeError, ValueError) as error:
            return f"its {forms[0]} cannot be read: {type(error).__name__} {error}"
        if not tests:
            return f"there are no {'calls' if forms[0] == 'function' else forms[0]}"
        if forms[0] == "asserts" and not all(isinstance(line, str) for line in tests):
            return "asserts must be texts"
        if forms[0] == "function" and not all(isinstance(call, Mapping) and "result" in call for call in tests):
            return "every call must name its result"
        return None

    def needs_sandbox(self, problem: Problem) -> bool:
        """Return True: answers are programs."""
        return True

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the program of a response: the last block, or the last block that defines the function to call."""
        blocks = [match for match in _FENCE.finditer(response) if match[1].lower() in (*_LANGUAGES, "")]
        if not blocks:
            return ExtractedAnswer(response.strip(), "bare", False) if _is_program(response) else None
        marked = [block for block in blocks if block[1]] or blocks
        name = str(problem.metadata.get("function", "")).partition(".")[0]
        defining = [
            block for block in marked if name and re.search(rf"\b(?:def|class)[ \t]+{re.escape(name)}\b", block[2])
        ]
        last = (defining or marked)[-1]
        return ExtractedAnswer(last[2], "code block", last[0].rstrip().endswith("```"))

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Run a program against its tests, up to the first that it fails.

        Raises:
            UserError: no sandbox can be made on this machine.
        """
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        sandbox.refuse_without(_limits)
        metadata = problem.metadata
        tolerance = metadata.get("float_tolerance")
        if "tests" in metadata:
            return _against_tests(answer, _tests(metadata["tests"]), tolerance)
        if "asserts" in metadata:
            return _against_asserts(answer, _listed(metadata["asserts"]))
        return _against_calls(answer, metadata["function"], _listed(metadata["calls"]), tolerance)


def _against_tests(code: str, tests: Sequence[tuple[str, str]], tolerance: float | None) -> Finding:
    deadline = time.monotonic() + _limits.seconds
    for number, (stdin, expected) in enumerate(tests, 1):
        left = max(0.0, deadline - time.monotonic())
        execution = sandbox.run(_SCRIPT, stdin=stdin.encode(), job=code.encode(), limits=_limits, seconds=left)
        fault = _fault(execution) or _difference(execution.output.decode(errors="replace"), expected, tolerance)
        if fault:
            return Finding(Outcome.WRONG, f"test {number} of {len(tests)}: {fault}")
    return Finding(Outcome.CORRECT, f"{len(tests)} tests")


def _against_asserts(code: str, asserts: Sequence[str]) -> Finding:
    token = secrets.token_hex(16)
    job = json.dumps({"code": code, "asserts": list(asserts), "token": token}).encode()
    execution = sandbox.run(_ASSERTS, stdin=b"", job=job, limits=_limits, seconds=_limits.seconds)
    reports = _reports(execution)
    if reports == [{"token": token}]:
        return Finding(Outcome.CORRECT, f"{len(asserts)} asserts")
    if reports and "number" in reports[0] and "error" in reports[0]:
        return Finding(Outcome.WRONG, f"assert {reports[0]['number'] + 1} of {len(asserts)}: {reports[0]['error']}")
    return Finding(Outcome.WRONG, _fault(execution) or "the program ends before its tests")


def _against_calls(code: str, function: str, calls: Sequence[Mapping[str, Any]], tolerance: float | None) -> Finding:
    arguments = [{"args": list(call.get("args", ())), "kwargs": dict(call.get("kwargs", {}))} for call in calls]
    job = json.dumps({"code": code, "function": function, "calls": arguments}).encode()
    execution = sandbox.run(_CALLS, stdin=b"", job=job, limits=_limits, seconds=_limits.seconds)
    reports = _reports(execution)
    for number, (call, report) in enumerate(zip(calls, reports, strict=False), 1):
        fault = report.get("error")
        if not fault and not _same(report.get("result"), call["result"], tolerance):
            fault = f"returns {_short(report.get('result'))}, not {_short(call['result'])}"
        if fault:
            return Finding(Outcome.WRONG, f"call {number} of {len(calls)}: {fault}")
    if len(reports) < len(calls):
        fault = _fault(execution) or "the program ends before it"
        return Finding(Outcome.WRONG, f"call {len(reports) + 1} of {len(calls)}: {fault}")
    return Finding(Outcome.CORRECT, f"{len(calls)} calls")


def _fault(execution: Execution) -> str:
    """Return why a program ended badly, or "" if it ended well."""
    if execution.limit or execution.status == 0:
        return execution.limit
    last_line = execution.errors.decode(errors="replace").strip().rpartition("\n")[2][:200]
    if execution.status < 0:
        return last_line or f"ended by signal {-execution.status}"
    return last_line or f"exit status {execution.status}"


def _difference(output: str, expected: str, tolerance: float | None) -> str:
    """Return the first difference, or "" if there is none. Spaces at the ends of lines and of the text do not count."""
    lines, wanted = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (output, expected))
    for number, (line, right) in enumerate(zip(lines, wanted, strict=False), 1):
        if line != right and not (tolerance is not None and _close(line, right, tolerance)):
            return f"line {number} is {_short(line)}, not {_short(right)}"
    return "" if len(lines) == len(wanted) else f"{len(lines)} lines, not {len(wanted)}"


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


def _same(value: Any, wanted: Any, tolerance: float | None) -> bool:
    """Return whether two JSON values are the same, numbers within a tolerance (absolute or relative, the wider one)."""
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    if isinstance(wanted, int | float) and isinstance(value, int | float):
        is_within = tolerance is not None and math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance)
        return value == wanted or is_within
    if isinstance(wanted, list) and isinstance(value, list):
        pairs = zip(value, wanted, strict=False)
        return len(value) == len(wanted) and all(_same(one, other, tolerance) for one, other in pairs)
    if isinstance(wanted, Mapping) and isinstance(value, Mapping):
        return value.keys() == wanted.keys() and all(_same(value[key], wanted[key], tolerance) for key in wanted)
    return (value is not None and type(value) is type(wanted) and bool(value == wanted)) or (value is None is wanted)


def _tests(tests: Any) -> list[tuple[str, str]]:
    """Return (stdin, expected stdout) of each test."""
    tests = json.loads(tests) if isinstance(tests, str) else tests
    if isinstance(tests, Mapping):
        pairs = list(zip(tests["inputs"], tests["outputs"], strict=True))
    else:
        pairs = [(test.get("stdin", ""), test["stdout"]) for test in tests]
    return [(_as_text(stdin), _as_text(stdout)) for stdin, stdout in pairs]


def _as_text(lines: Any) -> str:
    return "\n".join(map(str, lines)) if isinstance(lines, list) else str(lines)


def _listed(items: Any) -> list[Any]:
    return list(json.loads(items) if isinstance(items, str) else items)


def _reports(execution: Execution) -> list[dict[str, Any]]:
    """Return the reports on our channel, up to the first line that is not ours: the program may have written there."""
    reports = []
    for line in execution.report.splitlines():
        try:
            report = json.loads(line)
        except ValueError:
            break
        if not isinstance(report, dict):
            break
        reports.append(report)
    return reports


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "…"


def _is_program(text: str) -> bool:
    """Return whether a text is Python that does something; a bare word or number does nothing."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in body)
