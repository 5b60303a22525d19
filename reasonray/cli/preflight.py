"""What of a configuration can be known to fail before anything is drawn, and is not seen from its values alone."""

from __future__ import annotations

from reasonray.checkers import CHECKERS
from reasonray.config import Config
from reasonray.curation.rules import check_names
from reasonray.errors import UserError
from reasonray.problems.files import matching


def refuse_unusable(config: Config) -> None:
    """Check the names that a configuration gives to rules, functions and checkers.

    Raises:
        UserError: a name stands for nothing.
    """
    check_names(config.curation)
    for name in (*config.checking.instead, *config.checking.instead.values()):
        if name not in CHECKERS:
            raise UserError(f"checking.instead: no checker is called {name!r}; there are {', '.join(CHECKERS)}")


def refuse_missing(config: Config) -> None:
    """Check that the benchmarks' files are there, where they will be read.

    Raises:
        UserError: a file is missing.
    """
    for pattern in config.curation.benchmarks:
        matching(pattern, "curation.benchmarks")
