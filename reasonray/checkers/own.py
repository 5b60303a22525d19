"""A user's own checkers, named `package.module:Name` wherever a checker's name may stand in the configuration.

They are trusted like the configuration that names them, but not to be free of faults: each of their checks runs in a
process that can be killed (checkers/pool.py), and `pool.refuse_faulty` tries them on gold answers before a run starts.
A verdict names the version of the code that gave it, and a run refuses to go on with another one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from inspect import getfile, isclass, unwrap
from operator import attrgetter
from pathlib import Path
from typing import Any

from reasonray.answers import ExtractedAnswer
from reasonray.checkers.checker import Checker, Finding
from reasonray.errors import UserError
from reasonray.records import Outcome, Problem

_MEMBERS = ("needs_answer", "has_independent_rules")
_METHODS = ("unverifiable", "needs_sandbox", "extract", "fast", "compare", "combine")
NUM_TRIED = 5
"""The problems on which each checker is tried."""


@dataclass(frozen=True, slots=True)
class OwnChecker:
    """A checker of the user's."""

    checker: Checker
    version: str
    """Its declared `version`, else the beginning of a hash of its source file."""


def is_own(name: str) -> bool:
    """Return whether a checker's name names the user's code."""
    return ":" in name


@cache
def load(name: str) -> OwnChecker:
    """Import a checker.

    Args:
        name: `package.module:Name`, a class without arguments or an object, with every member of `Checker`.

    Raises:
        UserError: it cannot be imported or made, or lacks a member.
    """
    module, _, path = name.partition(":")
    try:
        found = import_module(module)
    except Exception as error:  # importing runs the user's module, which can raise anything
        raise UserError(f"checker {name}: module {module} cannot be imported ({_line(error)})") from error
    try:
        target = attrgetter(path)(found)
    except AttributeError:
        raise UserError(f"checker {name}: module {module} has no {path or 'empty name'}") from None
    if missing := getattr(target, "__abstractmethods__", ()):
        raise UserError(f"checker {name} lacks {', '.join(sorted(missing))}")
    try:
        checker: Any = target() if isclass(target) else target
    except Exception as error:  # the same of the user's __init__
        raise UserError(f"checker {name} cannot be made without arguments ({_line(error)})") from error
    lacking = [member for member in _MEMBERS if not hasattr(checker, member)]
    lacking += [method for method in _METHODS if not callable(getattr(checker, method, None))]
    if lacking:
        cure = "inherit from reasonray.checkers.checker.Checker, which has defaults for most"
        raise UserError(f"checker {name} lacks {', '.join(lacking)}; {cure}")
    return OwnChecker(checker, _version(name, checker))


def signature(name: str) -> str:
    """Return a checker's name as a verdict records it: one of the user's own with its version."""
    return f"{name}@{load(name).version}" if is_own(name) else name


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of each name that is the user's own.

    Raises:
        UserError: see `load`.
    """
    return {name: load(name).version for name in sorted(set(names)) if is_own(name)}


def refuse_changed(recorded: Mapping[str, str]) -> None:
    """Compare the versions that a run has recorded with the present ones.

    Raises:
        UserError: a checker has changed, or see `load`.
    """
    for name, version in recorded.items():
        if (now := load(name).version) != version:
            raise UserError(
                f"checker {name} is of version {now}, the run's verdicts are of version {version}; restore it, give "
                "the run another name, or judge its rollouts again (jobs/verify.py)"
            )


def sample(problems: Sequence[Problem], name: str) -> list[Problem]:
    """Return a few problems of a checker, from its first to its last, those with a gold answer before others."""
    own = [problem for problem in problems if problem.checker == name]
    answered = [problem for problem in own if problem.answer is not None] or own
    step = max(1, (len(answered) - 1) // (NUM_TRIED - 1)) if len(answered) > NUM_TRIED else 1
    return answered[::step][:NUM_TRIED]


def trial(problem: Problem) -> str:
    """Return the fault that a checker shows at a problem and its gold answer, or "" if it shows none."""
    checker = load(problem.checker).checker
    gold = problem.answer if problem.answer is not None else "42"
    calls: dict[str, tuple[Any, ...]] = {"unverifiable": (), "extract": (gold,), "fast": (gold,), "compare": (gold,)}
    kinds: dict[str, tuple[type, ...]] = {"extract": (ExtractedAnswer, type(None)), "compare": (Finding,)}
    kinds |= {"unverifiable": (str, type(None)), "fast": (Finding, type(None))}
    results: dict[str, Any] = {}
    for method, arguments in calls.items():
        try:
            results[method] = getattr(checker, method)(problem, *arguments)
        except Exception as error:  # the user's code can raise anything
            return f"raises {_line(error)} in {method}"
        if not isinstance(results[method], kinds[method]):
            return f"returns {type(results[method]).__name__} from {method}, not {kinds[method][0].__name__}"
        if method == "unverifiable" and results[method]:
            return ""  # reported with the other problems that cannot be judged
    finding: Finding = results["fast"] or results["compare"]
    if problem.answer is not None and finding.outcome is not Outcome.CORRECT:
        return f"finds its own gold answer {finding.outcome.value} ({finding.detail})"
    return ""


def _version(name: str, checker: object) -> str:
    declared = getattr(checker, "version", None)
    if declared is not None:
        return str(declared)
    try:
        return sha256(Path(getfile(unwrap(type(checker)))).read_bytes()).hexdigest()[:12]
    except (OSError, TypeError) as error:
        raise UserError(f"checker {name} has no source file ({error}); give it a `version`") from None


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
