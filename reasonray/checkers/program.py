"""Programs, judged by running them (checkers/sandbox.py): Python against inputs and outputs, calls or asserts.

The program is the last fenced Python block of the response that the tests need, or the whole response if it is a
program. checkers/program_tests.py reads the tests from the problem's metadata.

Expected outputs and results never reach the program's process: they are compared outside, as data and not as objects
of the program. An assert that compares with a literal is such a result. Other asserts run inside, and count only with a
token that the program does not know; a program that exits early fails. A program that exceeds its limits of time,
memory or output is wrong, because these faults are its own.

Names of `typing` need no import, and in calls the names that LeetCode provides do not either.
"""

from __future__ import annotations

import ast
import json
import re
import secrets
import textwrap
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from reasonray.answers import ExtractedAnswer
from reasonray.checkers import sandbox
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.program_results import Foreign, difference, same, short, value_of
from reasonray.checkers.program_tests import Assertion, Call, Script, Tests, loads, read_tests
from reasonray.checkers.sandbox import Execution, Limits
from reasonray.records import Outcome, Problem

_FENCE = re.compile(
    r"^[ \t>]*(?P<fence>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[^\n]*\n(?P<code>.*?)"
    r"(?P<end>^[ \t>]*(?P=fence)[ \t]*$|\Z)",
    re.DOTALL | re.MULTILINE,
)
_LANGUAGES = ("python", "python3", "py", "py3")
_TAG = re.compile(r"<answer>(.*?)(?:</answer>|\Z)", re.DOTALL)
_DEFINED = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+(\w+)|^(\w+)[ \t]*=[ \t]*lambda\b", re.MULTILINE)
_TOP_LEVEL = re.compile(r"^(?:def|class|import|from|@|[ \t#]|$)", re.MULTILINE)
_CALLED = re.compile(r"\b([A-Za-z_]\w*)[ \t]*\(")
_READS = re.compile(r"\binput\b|\bstdin\b|\bopen\(0|\bfileinput\b")
_NAME = re.compile(r"\b[A-Za-z_]\w*\b(?:[ \t]*\.)?")

_TYPING = (
    "List Dict Set Tuple Optional Union Any Callable Iterable Iterator Deque DefaultDict Sequence Mapping Generator"
)
_LEETCODE = {
    "typing": _TYPING,
    "collections": "deque defaultdict Counter OrderedDict",
    "functools": "cache lru_cache reduce cmp_to_key",
    "heapq": "heappush heappop heapify heappushpop heapreplace nlargest nsmallest",
    "bisect": "bisect_left bisect_right insort",
    "itertools": "accumulate permutations combinations product chain groupby pairwise zip_longest",
    "math": "inf gcd lcm sqrt ceil floor comb",
}
_MODULES = frozenset(
    {"math", "collections", "functools", "heapq", "bisect", "itertools", "string", "re", "operator", "sys"}
)
_limits = Limits()


def configure(limits: Limits) -> None:
    """Set the limits of all programs that this process runs."""
    global _limits
    _limits = limits


class Program(Checker):
    """Runs a program against its tests. No gold answer is needed, because the tests are in the metadata."""

    needs_answer = False

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why the problem's metadata cannot judge any program, or None if they can."""
        try:
            read_tests(problem.metadata)
        except ValueError as error:
            return str(error)
        return None

    def needs_sandbox(self, problem: Problem) -> bool:
        """Return True: answers are programs."""
        return True

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the program of a response: of its Python blocks the last one that does what the tests need."""
        blocks = [block for block in _FENCE.finditer(response) if block["language"].lower() in (*_LANGUAGES, "")]
        if not blocks:
            tag = _TAG.search(response)
            code = (tag[1] if tag else response).strip()
            return ExtractedAnswer(code, "bare", bool(tag)) if _is_program(code) else None
        marked = [block for block in blocks if block["language"]] or blocks
        codes = [textwrap.dedent(block["code"]) for block in marked]
        chosen = _needed(problem, codes)
        is_closed = bool(marked[chosen]["end"])
        return ExtractedAnswer(_with_definitions(codes[: chosen + 1]), "code block", is_closed)

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Run a program against its tests, up to the first that it fails.

        Raises:
            UserError: no sandbox can be made on this machine.
        """
        try:
            tests = read_tests(problem.metadata)
        except ValueError as error:
            return Finding(Outcome.UNVERIFIABLE, str(error))
        sandbox.refuse_without(_limits)
        tolerance = problem.metadata.get("float_tolerance")
        if scripts := [test for test in tests if isinstance(test, Script)]:
            return _against_scripts(answer, scripts, tolerance)
        return _against_items(answer, [test for test in tests if not isinstance(test, Script)], tolerance)


def _needed(problem: Problem, codes: Sequence[str]) -> int:
    """Return which block the tests need: one that defines what they call, or reads the input that they give."""
    try:
        tests: Tests = read_tests(problem.metadata)
    except ValueError:
        return len(codes) - 1
    does = [_is_for(tests, code) for code in codes]
    return max((index for index, is_for in enumerate(does) if is_for), default=len(codes) - 1)


def _is_for(tests: Tests, code: str) -> bool:
    first = tests[0]
    if isinstance(first, Script):
        return not first.stdin.strip() or _READS.search(code) is not None
    if isinstance(first, Call):
        wanted = set(first.function.split(".")[:1])
    else:
        wanted = {name for test in tests if isinstance(test, Assertion) for name in _CALLED.findall(test.source)}
    return not wanted.isdisjoint(_definitions(code))


def _definitions(code: str) -> set[str]:
    return {match[1] or match[2] for match in _DEFINED.finditer(code)}


def _with_definitions(codes: Sequence[str]) -> str:
    """Return the last block, after the earlier ones that only define something that it uses and does not define."""
    *earlier, program = codes
    for code in reversed(earlier):
        names = _definitions(code) - _definitions(program)
        only_defines = all(_TOP_LEVEL.match(line) for line in code.splitlines())
        if only_defines and names & set(_NAME.findall(program)) | names & set(_CALLED.findall(program)):
            program = f"{code}\n{program}"
    return program


def _imports(code: str, *, leetcode: bool) -> str:
    """Return the imports of the names that a program uses and need not import. Its own definitions replace them."""
    used = set(_NAME.findall(code))
    known = _LEETCODE if leetcode else {"typing": _TYPING}
    lines = [
        f"from {module} import {name}" for module, names in known.items() for name in names.split() if name in used
    ]
    modules = sorted(_MODULES & {name.rstrip(". \t") for name in used if name.endswith(".")}) if leetcode else []
    return "\n".join([*lines, *(f"import {module}" for module in modules)])


@cache
def _runner() -> str:
    return Path(__file__).with_name("program_runner.py").read_text(encoding="utf-8")


def _against_scripts(code: str, tests: Sequence[Script], tolerance: float | None) -> Finding:
    deadline = time.monotonic() + _limits.seconds
    job = json.dumps({"code": code, "imports": _imports(code, leetcode=False)}).encode()
    for number, test in enumerate(tests, 1):
        left = max(0.0, deadline - time.monotonic())
        execution = sandbox.run(_runner(), stdin=test.stdin.encode(), job=job, limits=_limits, seconds=left)
        output = execution.output.decode(errors="replace")
        if fault := _fault(execution) or difference(output, test.stdout, tolerance):
            return Finding(Outcome.WRONG, f"test {number} of {len(tests)}: {fault}")
    return Finding(Outcome.CORRECT, f"{len(tests)} tests")


def _against_items(code: str, tests: Sequence[Call | Assertion], tolerance: float | None) -> Finding:
    token, kind = secrets.token_hex(16), "call" if isinstance(tests[0], Call) else "assert"
    imports = _imports(code, leetcode=kind == "call")
    job = {"code": code, "imports": imports, "token": token, "items": [_item(test) for test in tests]}
    try:
        text = json.dumps(job)
    except (TypeError, ValueError) as error:
        return Finding(Outcome.UNVERIFIABLE, f"an argument is not JSON: {error}")
    execution = sandbox.run(_runner(), stdin=b"", job=text.encode(), limits=_limits, seconds=_limits.seconds)
    reports = _reports(execution)
    for number, (test, report) in enumerate(zip(tests, reports, strict=False), 1):
        if fault := _wrong(test, report, token, tolerance):
            return Finding(Outcome.WRONG, f"{kind} {number} of {len(tests)}: {fault}")
    if len(reports) < len(tests):
        fault = _fault(execution) or "the program ends before it"
        return Finding(Outcome.WRONG, f"{kind} {len(reports) + 1} of {len(tests)}: {fault}")
    return Finding(Outcome.CORRECT, f"{len(tests)} {kind}s")


def _item(test: Call | Assertion) -> dict[str, Any]:
    if isinstance(test, Call):
        return {"function": test.function, "args": test.args, "kwargs": test.kwargs}
    return {"value": test.value} if test.value else {"assert": test.source}


def _wrong(test: Call | Assertion, report: Mapping[str, Any], token: str, tolerance: float | None) -> str:
    """Return what is wrong with the report of a test, or "" if nothing is."""
    if error := report.get("error"):
        return str(error)
    if isinstance(test, Assertion) and not test.value:
        return "" if report.get("token") == token else "the report is not ours"
    try:
        result = value_of(report["result"])
    except (KeyError, TypeError, ValueError, RecursionError):
        return "the report is not ours"
    if isinstance(result, Foreign):
        return f"returns {result.name}, which is not JSON"
    if isinstance(test, Assertion):
        is_same = bool(result == test.expected)
        return "" if is_same else f"AssertionError: {short(result)} is not {short(test.expected)}"
    if isinstance(result, frozenset):
        return "returns set, which is not JSON"
    unwrapped = test.result[0] if test.is_wrapped and isinstance(test.result, list) and len(test.result) == 1 else None
    if same(result, test.result, tolerance) or (unwrapped is not None and same(result, unwrapped, tolerance)):
        return ""
    return f"returns {short(result)}, not {short(test.result)}"


def _fault(execution: Execution) -> str:
    """Return why a program ended badly, or "" if it ended well."""
    if execution.limit or execution.status == 0:
        return execution.limit
    last_line = execution.errors.decode(errors="replace").strip().rpartition("\n")[2][:200]
    if execution.status < 0:
        return last_line or f"ended by signal {-execution.status}"
    return last_line or f"exit status {execution.status}"


def _reports(execution: Execution) -> list[dict[str, Any]]:
    """Return the reports on our channel, up to the first line that is not ours: the program may have written there."""
    reports = []
    for line in execution.report.splitlines():
        try:
            report = loads(line)
        except (ValueError, RecursionError):
            break
        if not isinstance(report, dict):
            break
        reports.append(report)
    return reports


def _is_program(text: str) -> bool:
    """Return whether a text is Python that does something; a bare word or number does nothing."""
    try:
        body = ast.parse(text.strip()).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call) for node in body)
