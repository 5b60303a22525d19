"""The scorers of reasoning-gym in the sandbox of programs: a server imports the library once and forks per answer.

The library's scorers are foreign code that reads model output; a version to come may evaluate it. So an answer is
scored in a process without files, network or environment, and what it leaves in that process ends with it. Each
process that judges starts one server with its first answer, and a new one if that server dies.
"""

from __future__ import annotations

import atexit
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from reasonray.checkers import sandbox
from reasonray.checkers.sandbox import Conversation, Limits
from reasonray.errors import UserError

_START_SECONDS = 60.0
"""The time that a server may take to import the library, on a busy machine."""
_SLACK_SECONDS = 5.0
"""The time that a server may take beyond an answer's own limit before it counts as dead."""
_limits = Limits()
_seconds = 5.0
_server: Conversation | None = None

_SERVER = """
import ctypes, json, os, resource, select, signal, sys

def main():
    requests, replies, folders = int(sys.argv[-2]), int(sys.argv[-1]), json.loads(sys.argv[-3])
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # not dumpable: no process may look into it, its children included
    sys.path += folders
    import reasoning_gym
    scorers, null = {}, os.open("/dev/null", os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.write(replies, b"{}\\n")
    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            job = json.loads(line)
            os.write(replies, json.dumps(reply(reasoning_gym, scorers, job, (requests, replies))).encode() + b"\\n")

def reply(reasoning_gym, scorers, job, private):
    key = json.dumps([job["task"], job["args"]], sort_keys=True)
    if key not in scorers:
        try:
            scorers[key] = reasoning_gym.create_dataset(job["task"], size=1, seed=0, **job["args"])
        except Exception as error:
            return {"error": f"{type(error).__name__}: {error}"[:200]}
    result, result_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(result)
        for number in private:
            os.close(number)
        work(scorers[key], job, result_end)
    os.close(result_end)
    try:
        return outcome(child, result, job["seconds"])
    finally:
        os.close(result)

def work(scorer, job, result_end):
    try:
        cpu = int(job["seconds"]) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (cpu, cpu))
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        score = float(scorer.score_answer(answer=job["answer"], entry=job["entry"]))
        text = json.dumps({"score": score})
    except BaseException as error:
        text = json.dumps({"error": f"{type(error).__name__}: {error}"[:200]})
    os.write(result_end, text.encode()[:4096])
    os._exit(0)

def outcome(child, result, seconds):
    readable, _, _ = select.select([result], [], [], seconds)
    text = os.read(result, 4096) if readable else b""
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not readable:
        return {"limit": f"killed after {seconds:g} s"}
    try:
        found = json.loads(text)
        return {"score": float(found["score"])} if "score" in found else {"error": str(found["error"])}
    except Exception:
        return {"error": f"its process died (status {status})"}

main()
"""


@dataclass(frozen=True, slots=True)
class Scored:
    """What the library's scorer made of an answer."""

    score: float = 0.0
    error: str = ""
    """Why the scorer gave no score."""
    limit: str = ""
    """The limit at which it was killed."""


def configure(limits: Limits, seconds: float) -> None:
    """Set the limits of all scorers that this process asks: those of the sandbox, and the seconds of one answer."""
    global _limits, _seconds
    _limits, _seconds = limits, seconds


def worst_seconds(seconds: float) -> float:
    """Return the time within which every answer has a score, if one may take `seconds`: both answers, two servers."""
    return 2 * (_START_SECONDS + 2 * (seconds + _SLACK_SECONDS))


def score(metadata: Mapping[str, Any], answer: str) -> Scored:
    """Return the score of an answer by the scorer of the task that a problem's metadata name.

    Raises:
        UserError: no sandbox can be made on this machine, or reasoning-gym is not installed.
    """
    job = {
        "task": metadata["task"],
        "args": metadata.get("args", {}),
        "entry": metadata["entry"],
        "answer": answer,
        "seconds": _seconds,
    }
    for _ in range(2):  # an answer that kills the server may not cost the next one its verdict
        reply = _running_server().ask(json.dumps(job).encode(), _seconds + _SLACK_SECONDS)
        if reply is not None:
            return Scored(**json.loads(reply))
        stop()
    return Scored(error="it kills the scorer")


def stop() -> None:
    """Stop this process's server, if there is one."""
    global _server
    if _server:
        _server.close()
    _server = None


def _running_server() -> Conversation:
    global _server
    if _server is None:
        sandbox.refuse_without(_limits)
        _server = sandbox.converse(_SERVER, limits=_limits, arguments=[json.dumps(_folders())], folders=_folders())
        if _server.read(_START_SECONDS) is None:
            errors = _server.close()
            _server = None
            raise UserError(
                f"reasoning-gym does not start in the sandbox: {errors.strip().rpartition(chr(10))[2][:200]}"
            )
        atexit.register(stop)
    return _server


def _folders() -> list[str]:
    """Return the folders of installed packages, that of reasoning-gym among them."""
    spec = find_spec("reasoning_gym")
    if spec is None or spec.origin is None:
        raise UserError("tasks of reasoning-gym need the `gym` extra: pip install 'reasonray[gym]'")
    installed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    return list(dict.fromkeys([*installed, str(Path(spec.origin).parents[1])]))
