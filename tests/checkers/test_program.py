"""Programs that models write, and hostile programs."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasonray.checkers import check, check_fast, find_checker, program, sandbox, unverifiable
from reasonray.checkers.pool import CheckerPool
from reasonray.checkers.sandbox import Limits
from reasonray.config import Checking, UserError
from reasonray.records import Finish, Outcome, Problem, Verdict
from tests.factories import a_problem

pytestmark = pytest.mark.slow

LIMITS = Limits(seconds=3.0, memory_mb=512)
needs_sandbox = pytest.mark.skipif(bool(sandbox.missing()), reason=f"no sandbox: {sandbox.missing()}")

DOUBLE = {"function": "double", "calls": [{"args": [2], "result": 4}, {"args": [-3], "result": -6}]}
ECHO = {"tests": [{"stdin": "1 2\n", "stdout": "3"}, {"stdin": "5 6", "stdout": "11\n"}]}
ASSERTS = {"asserts": ["assert double(2) == 4", "assert double(0) == 0"]}


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    program.configure(LIMITS)
    yield
    program.configure(Limits())


def a_task(metadata: dict[str, Any]) -> Problem:
    return a_problem("Write it.", None, checker="program", metadata=metadata)


def judged(code: str, metadata: dict[str, Any], text: str = "Here it is:\n```python\n{code}\n```\nDone.") -> Verdict:
    return check(a_task(metadata), text.replace("{code}", code), Finish.STOP)


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "metadata", "outcome", "detail"),
    [
        ("def double(x):\n    return 2 * x", DOUBLE, Outcome.CORRECT, "2 calls"),
        ("def double(x):\n    return x * x", DOUBLE, Outcome.WRONG, "call 2 of 2: returns 9, not -6"),
        ("def double(x):\n    return {x}", DOUBLE, Outcome.WRONG, "call 1 of 2: returns set, which is not JSON"),
        ("def treble(x):\n    return 3 * x", DOUBLE, Outcome.WRONG, "call 1 of 2: KeyError: 'double'"),
        ("def double(x):\n    return 1 / 0", DOUBLE, Outcome.WRONG, "ZeroDivisionError"),
        ("def double(x)\n    return 2", DOUBLE, Outcome.WRONG, "SyntaxError"),
        ("def double(x):\n    return 2 * x", ASSERTS, Outcome.CORRECT, "2 asserts"),
        ("def double(x):\n    return x + 2", ASSERTS, Outcome.WRONG, "assert 2 of 2: AssertionError"),
        ("print(sum(map(int, input().split())))", ECHO, Outcome.CORRECT, "2 tests"),
        ("print('3  \\n')", ECHO, Outcome.WRONG, 'test 2 of 2: line 1 is "3", not "11"'),
        ("input(); input(); input()", ECHO, Outcome.WRONG, "test 1 of 2: EOFError"),
        ("print(3); raise SystemExit(1)", ECHO, Outcome.WRONG, "test 1 of 2: exit status 1"),
        ("if __name__ == '__main__':\n    print(sum(map(int, input().split())))", ECHO, Outcome.CORRECT, ""),
    ],
)
def test_a_program_is_correct_if_it_passes_its_tests(
    code: str, metadata: dict[str, Any], outcome: Outcome, detail: str
) -> None:
    verdict = judged(code, metadata)
    assert (verdict.outcome, detail in verdict.detail) == (outcome, True), verdict.detail


TYPED = "class Solution:\n    def double(self, xs: List[int]) -> List[int]:\n        return [2 * x for x in xs]"
HEAP = """
def double(xs):
    heap = []
    for x in xs:
        heappush(heap, 2 * x)
    return [heappop(heap) for _ in xs]
"""
EQUAL = "class Equal(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
LINES = {"fn_name": "double", "inputs": [[[1, 2]], [[3]]], "outputs": [[2, 4], [6]]}
BIG = {"tests": {"fn_name": "big", "inputs": [[5000]], "outputs": [10**5000]}}
ADD = {"tests": {"fn_name": "add", "inputs": ["1\n2"], "outputs": ["3"]}}


def asserting(*lines: str) -> dict[str, Any]:
    return {"asserts": list(lines)}


def calling(*args: Any, result: Any) -> dict[str, Any]:
    return {"function": "double", "calls": [{"args": list(args), "result": result}]}


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "metadata", "outcome", "detail"),
    [
        (TYPED, {"tests": LINES}, Outcome.CORRECT, "2 calls"),
        (TYPED, {"tests": json.dumps(LINES)}, Outcome.CORRECT, "2 calls"),
        (TYPED, {"tests": LINES | {"outputs": [[[2, 4]], [[6]]]}}, Outcome.CORRECT, "2 calls"),
        (TYPED, {"tests": LINES | {"outputs": [[2, 4], [7]]}}, Outcome.WRONG, "call 2 of 2: returns [6], not [7]"),
        (TYPED, {"tests": [{"input": "[1, 2]", "output": "[2, 4]"}], "function": "double"}, Outcome.CORRECT, "1 calls"),
        (HEAP, {"tests": LINES}, Outcome.CORRECT, "2 calls"),
        ("def add(a, b): return a + b", ADD, Outcome.CORRECT, ""),
        ("x: List[int] = [3]\nprint(*x)", {"tests": [{"stdin": "", "stdout": "3"}]}, Outcome.CORRECT, ""),
        ("print(10**int(input()))", {"tests": [{"input": "5000", "output": "1" + "0" * 5000}]}, Outcome.CORRECT, ""),
        ("def big(n): return 10**n", BIG, Outcome.CORRECT, ""),
        ("def big(n): return 10**n + 1", BIG, Outcome.WRONG, ""),
        (EQUAL + "def double(x): return Equal(7)", DOUBLE, Outcome.WRONG, "returns 7, not 4"),
        (EQUAL + "def double(x): return Equal(7)", ASSERTS, Outcome.WRONG, "7 is not 4"),
        (EQUAL + "def double(x): return Equal(2 * x)", ASSERTS, Outcome.CORRECT, "2 asserts"),
        ("class E:\n    def __eq__(s, o): return True\ndef double(x): return E()", ASSERTS, Outcome.WRONG, "returns E"),
        ("def double(x): return (2 * x,)", asserting("assert double(1) == [2]"), Outcome.WRONG, "assert 1 of 1"),
        ("def double(x): return {2 * x}", asserting("assert double(1) == {2}"), Outcome.CORRECT, ""),
        ("def double(x): return {x: (x, {3})}", asserting("assert double(1) == {1: (1, {3})}"), Outcome.CORRECT, ""),
        ("def double(x): return 2 * x", asserting("assert abs(double(1) - 2) < 1e-9"), Outcome.CORRECT, ""),
        ("def double(x): return [1]", asserting("assert sorted(double(1)) == sorted([2])"), Outcome.WRONG, ""),
        ("def double(x): return {1: 2}", calling(1, result={"1": 2}), Outcome.CORRECT, ""),
        ("def double(x): return (x, [x])", calling(1, result=[1, [1]]), Outcome.CORRECT, ""),
        ("def double(x): return True", calling(1, result=1), Outcome.WRONG, "returns true, not 1"),
    ],
)
def test_tests_of_the_forms_that_data_sets_have(
    code: str, metadata: dict[str, Any], outcome: Outcome, detail: str
) -> None:
    verdict = judged(code, metadata)
    assert (verdict.outcome, detail in verdict.detail) == (outcome, True), verdict.detail


@needs_sandbox
def test_methods_float_tolerances_and_other_forms_of_tests_are_supported() -> None:
    solution = "class Solution:\n    def third(self, x):\n        return {'third': x / 3}"
    calls = {"function": "Solution.third", "calls": [{"kwargs": {"x": 1}, "result": {"third": 0.333333}}]}
    assert judged(solution, calls).outcome is Outcome.WRONG
    assert judged(solution, calls | {"float_tolerance": 1e-5}).outcome is Outcome.CORRECT
    code = "print(1 / float(input()), 'm')"
    shape = {"tests": json.dumps({"inputs": ["3\n"], "outputs": ["0.3333 m"]})}
    assert judged(code, shape | {"float_tolerance": 1e-3}).outcome is Outcome.CORRECT
    assert judged(code, shape).outcome is Outcome.WRONG


@pytest.mark.parametrize(
    ("text", "metadata", "expected"),
    [
        ("```python\na = 1\n```\nthen\n```py\nb = 2\n```", ECHO, "b = 2\n"),
        (
            "```python\ndef double(x): ...\n```\nUse it:\n```python\nprint(double(1))\n```",
            DOUBLE,
            "def double(x): ...\n",
        ),
        ("```\na = 1\n```", ECHO, "a = 1\n"),
        ("```python\na = 1\n```\n```bash\nls\n```", ECHO, "a = 1\n"),
        ("```python\na = 1", ECHO, "a = 1"),
        ("print(int(input()) + 1)", ECHO, "print(int(input()) + 1)"),
        ("The answer is 42.", ECHO, None),
        ("42", ECHO, None),
        ("```bash\nls\n```", ECHO, None),
        ("```python\nprint(int(input()))\n```\nTry:\n```python\nprint(1 + 1)\n```", ECHO, "print(int(input()))\n"),
        ("```python\ndef double(x): ...\n```\n```python\nassert double(1) == 2\n```", ASSERTS, "def double(x): ...\n"),
        (
            "```python\ndef half(x): ...\n```\nThen\n```python\ndef double(x):\n    return half(4 * x)\n```",
            ASSERTS,
            "def half(x): ...\n\ndef double(x):\n    return half(4 * x)\n",
        ),
        ("1. So:\n   ```python\n   def double(x):\n       return x\n   ```", DOUBLE, "def double(x):\n    return x\n"),
        ("~~~python\na = 1\n~~~", ECHO, "a = 1\n"),
        ("````python\na = '`'\n```\nb = 1\n````", ECHO, "a = '`'\n```\nb = 1\n"),
        ("<answer>\nprint(int(input()) + 1)\n</answer>", ECHO, "print(int(input()) + 1)"),
    ],
)
def test_the_program_is_the_last_block_or_the_one_that_defines_what_is_called(
    text: str, metadata: dict[str, Any], expected: str | None
) -> None:
    extracted = find_checker("program").extract(a_task(metadata), text)
    assert (extracted.text if extracted else None) == expected


def test_a_response_without_a_program_has_no_answer_and_one_that_is_cut_is_truncated() -> None:
    assert judged("", ECHO, "I cannot.").outcome is Outcome.NO_ANSWER
    assert check(a_task(ECHO), "```python\nprint(", Finish.LENGTH).outcome is Outcome.TRUNCATED
    assert check_fast(a_task(ECHO), "```python\nprint(1)\n```", Finish.STOP) is None, (
        "a program never runs in the engine's process"
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        ECHO | ASSERTS,
        {"tests": []},
        {"tests": "not JSON"},
        {"tests": [{"stdin": "1"}]},
        {"tests": {"inputs": ["1"], "outputs": []}},
        {"asserts": [1]},
        {"function": "f"},
        {"function": "f", "calls": [{"args": [1]}]},
    ],
    ids=str,
)
def test_metadata_without_usable_tests_is_found_when_problems_are_loaded(metadata: dict[str, Any]) -> None:
    assert unverifiable(a_task(metadata))
    assert judged("print(1)", metadata).outcome is Outcome.UNVERIFIABLE
    assert unverifiable(a_task(ECHO)) is None


FORK_BOMB = "import os\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        pass"
HOSTILE = {
    "fork bomb": (FORK_BOMB, "time limit"),
    "memory bomb": ("a = []\nwhile True:\n    a.append(bytes(10 ** 8))", "MemoryError"),
    "endless print": ("while True:\n    print('x' * 1000)", "more than"),
    "endless stderr": ("import sys\nwhile True:\n    print('x' * 1000, file=sys.stderr)", "time limit"),
    "sleep": ("import time\ntime.sleep(60)", "time limit"),
    "child that stays": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\nprint(3)",
        "test 2 of 2: line 1",
    ),
    "full disk": ("open('/tmp/x', 'w').write('x' * 10 ** 8)", "test 1 of 2"),
    "huge line": ("print('9' * 10 ** 8)", "more than"),
}


@needs_sandbox
@pytest.mark.parametrize(("code", "detail"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_program_ends_at_its_limit_and_leaves_nothing(code: str, detail: str) -> None:
    begun = time.monotonic()
    verdict = judged(code, ECHO)
    assert time.monotonic() - begun < LIMITS.seconds + 20, "far from 60 s, and from for ever, on a busy machine too"
    assert verdict.outcome is Outcome.WRONG
    assert detail in verdict.detail
    for _ in range(200):  # the kernel ends the namespace after its first process, in its own time
        left = [
            process
            for process in psutil.process_iter(["cmdline"])
            if "solution.py" in " ".join(process.info["cmdline"] or ())
        ]
        if not left:
            break
        time.sleep(0.1)
    assert not left


ESCAPES = {
    "environment": """
import os
print(sorted(set(os.environ) - {"PATH", "LANG", "HOME", "OMP_NUM_THREADS", "PWD", "LC_CTYPE"}))
""",
    "home": """
import os
def held(place):
    return os.listdir(place) if os.path.isdir(place) else os.path.exists(place)
print([place for place in (OURS, "/home", "/etc/passwd", "/etc/hostname", "/proc/1", "/sys") if held(place)])
""",
    "socket": """
import socket
try:
    socket.create_connection(("127.0.0.1", PORT), 1)
    print("reached")
except OSError:
    print([])
""",
    "parent": """
import os, signal
for victim in (os.getppid(), 1):
    try:
        os.kill(victim, signal.SIGKILL)
    except OSError:
        pass
print([])
""",
    "writing outside": """
import os
written = []
for place in ("/usr", "/usr/lib", "/python", OURS):
    try:
        open(os.path.join(place, "reasonray-was-here"), "w")
        written.append(place)
    except OSError:
        pass
print(written)
""",
    "root": """
import os
gained = []
for act in (lambda: os.chroot("/tmp"), lambda: os.nice(-5), lambda: os.mknod("/tmp/null", 0o20666, os.makedev(1, 3))):
    try:
        gained.append(str(act()))
    except OSError:
        pass
print(gained)
""",
}


@needs_sandbox
@pytest.mark.parametrize("code", ESCAPES.values(), ids=ESCAPES)
def test_a_program_finds_no_data_of_ours_and_reaches_no_network(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        escape = code.replace("PORT", str(server.getsockname()[1])).replace("OURS", repr(str(tmp_path)))
        verdict = judged(escape, {"tests": [{"stdin": "", "stdout": "[]"}]})
    assert verdict.outcome is Outcome.CORRECT, verdict.detail
    assert not list(tmp_path.iterdir())
    assert not Path("/usr/reasonray-was-here").exists()
    assert not Path("/reasonray-was-here").exists()


CHEATS = {
    "exits early": "import sys\nsys.exit(0)",
    "exits without a report": "import os\nos._exit(0)",
    "prints success": 'print(\'{"token": "x"}\')\nraise SystemExit',
    "writes into the channel": """
import os
for number in range(3, 64):
    try:
        os.write(number, b'{"token": ""}')
    except OSError:
        pass
os._exit(0)
""",
    "patches the report": "import json, os, sys\njson.dumps = lambda _: '{}'\nsys.stdout = None\nos.write = print",
}


@needs_sandbox
@pytest.mark.parametrize("metadata", [ASSERTS, DOUBLE], ids=["asserts", "calls"])
@pytest.mark.parametrize("code", CHEATS.values(), ids=CHEATS)
def test_a_program_that_cheats_does_not_pass(code: str, metadata: dict[str, Any]) -> None:
    assert judged(code + "\ndef double(x):\n    return None", metadata).outcome is Outcome.WRONG


def test_where_no_sandbox_can_be_made_programs_are_refused_unless_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "missing", lambda: "there is no bwrap command")
    with pytest.raises(UserError, match="cannot be checked here: there is no bwrap command; install bubblewrap"):
        judged("print(1)", ECHO)
    program.configure(Limits(seconds=3.0, unsandboxed=True))
    assert judged("print(sum(map(int, input().split())))", ECHO).outcome is Outcome.CORRECT
    begun = time.monotonic()
    assert "time limit" in judged("import time\ntime.sleep(60)", ECHO).detail
    assert time.monotonic() - begun < 30, "far from 60 s, on a busy machine too"


@needs_sandbox
def test_a_program_ends_with_its_killed_checker_and_the_next_check_works() -> None:
    pool = CheckerPool(Checking(timeout_seconds=20, program_seconds=30))
    try:
        stuck = pool.submit(a_task(ECHO), "```python\nimport time\ntime.sleep(50)\n```", Finish.STOP)
        for _ in range(300):
            time.sleep(0.1)
            below = psutil.Process().children(recursive=True)
            # Not one that this process itself started in an earlier test, and that is about to end.
            if sandboxes := [one for one in below if one.name() == "bwrap" and one.ppid() != os.getpid()]:
                break
        os.kill(sandboxes[0].ppid(), 9)
        assert stuck.result(30).verdict.outcome is Outcome.FAILED
        _, alive = psutil.wait_procs(sandboxes, 5)
        assert not alive
        good = "```python\nprint(sum(map(int, input().split())))\n```"
        assert pool.submit(a_task(ECHO), good, Finish.STOP).result(60).verdict.outcome is Outcome.CORRECT
    finally:
        pool.close()


def test_programs_of_another_interpreter_may_use_its_packages(tmp_path: Path) -> None:
    if sandbox.missing():
        pytest.skip(sandbox.missing())
    program.configure(Limits(seconds=10.0, memory_mb=2048, python=sys.executable))
    code = "import numpy\nprint(int(numpy.array(list(map(int, input().split()))).sum()))"
    assert judged(code, ECHO).outcome is Outcome.CORRECT
    program.configure(Limits(python=str(tmp_path / "no-python")))
    with pytest.raises(UserError, match="is not a Python interpreter that runs here"):
        judged(code, ECHO)


@needs_sandbox
def test_without_root_a_user_namespace_gives_the_same_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    sandbox._working_bwrap.cache_clear()
    try:
        if sandbox._bwrap() is None:
            pytest.skip("this machine lets nobody make user namespaces")
        assert "--unshare-all" in sandbox._bwrap()
        assert judged("print(sum(map(int, input().split())))", ECHO).outcome is Outcome.CORRECT
        assert judged(ESCAPES["environment"], {"tests": [{"stdin": "", "stdout": "[]"}]}).outcome is Outcome.CORRECT
    finally:
        monkeypatch.undo()
        sandbox._working_bwrap.cache_clear()
