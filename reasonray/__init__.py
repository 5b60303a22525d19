"""Distil reasoning by rejection sampling, as a distributed batch system on Ray.

    import reasonray as rr

    config = rr.load_config("jobs/configs/smoke.toml", ["policy.samples=4"])
    with rr.open_run(config) as run:
        rr.sample(run)
        rr.curate(run)
        rr.train(run)
        scores = rr.evaluate(run)
        print(rr.report(run).headline)

Names are loaded when they are first used: importing reasonray loads neither Ray nor torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasonray import rewards
    from reasonray.checkers import check
    from reasonray.config import Config, load_config
    from reasonray.errors import UserError
    from reasonray.pipeline import compare, curate, distill, evaluate, open_run, report, sample, train, verify
    from reasonray.records import Finish, Interval, Outcome, Problem, Rollout, Score, Verdict
    from reasonray.store.run import Run, find_run

__all__ = [
    "Config",
    "Finish",
    "Interval",
    "Outcome",
    "Problem",
    "Rollout",
    "Run",
    "Score",
    "UserError",
    "Verdict",
    "check",
    "compare",
    "curate",
    "distill",
    "evaluate",
    "find_run",
    "load_config",
    "open_run",
    "report",
    "rewards",
    "sample",
    "train",
    "verify",
]

__version__ = _version("reasonray")

_MODULES = {
    "reasonray.checkers": ("check",),
    "reasonray.config": ("Config", "load_config"),
    "reasonray.errors": ("UserError",),
    "reasonray.pipeline": (
        "compare", "curate", "distill", "evaluate", "open_run", "report", "sample", "train", "verify",
    ),
    "reasonray.records": ("Finish", "Interval", "Outcome", "Problem", "Rollout", "Score", "Verdict"),
    "reasonray.store.run": ("Run", "find_run"),
}  # fmt: skip
_SUBMODULES = ("rewards",)
_HOMES = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # later uses do not come here
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
