"""Prefetching: the value that is needed next is made in a thread while the present one is used."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class Prefetcher(Generic[_Key, _Value]):
    """Makes one value ahead. Each value is that of its key, whatever was announced before.

    Its thread ends with the context, or with the process where it is not used as one.
    """

    def __init__(self, make: Callable[[_Key], _Value]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(1, "prefetch")  # starts with the first value
        self._ahead: tuple[_Key, Future[_Value]] | None = None

    def get(self, key: _Key, following: _Key | None) -> _Value:
        """Return the value of a key, and begin to make that of the following one.

        An exception in the thread is raised here, once its value is asked for.

        Args:
            key: of the value.
            following: of what will be asked for next; None if that is unknown or nothing.
        """
        ahead, self._ahead = self._ahead, None
        value = ahead[1].result() if ahead is not None and ahead[0] == key else self._make(key)
        if following is not None:
            self._ahead = following, self._thread.submit(self._make, following)
        return value

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown(cancel_futures=True)
