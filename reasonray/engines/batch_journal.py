"""Which requests are in which batch, noted where the run is, so that no batch is paid for twice.

    <ledger>/batches/<name>.json    the requests of a batch, written before the server is asked for it
    <ledger>/batches/<name>.batch   the server's id of the batch, written when the server has named it

The server knows `name` as the batch's metadata. So a batch whose id was not noted, because the process died just then,
is found in the server's list.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from reasonray.store.storage import Place

_NOTE, _ID = ".json", ".batch"


@dataclass(slots=True)
class BatchJournal:
    """The batches of one ledger, those of other processes included."""

    place: Place
    _read: set[str] = field(default_factory=set)
    """Names whose requests are known."""
    _unnamed: dict[str, list[str]] = field(default_factory=dict)
    """Name → requests of batches without an id."""
    _batches: dict[str, list[str]] = field(default_factory=dict)
    """Request → ids of the batches that may hold its answer, the newest last."""

    def refresh(self) -> list[str]:
        """Read what was noted since the last call, and return the names of batches without an id."""
        names = self.place.names()
        for name in [name.removesuffix(_NOTE) for name in names if name.endswith(_NOTE)]:
            if name not in self._read:
                self._read.add(name)
                self._unnamed[name] = json.loads((self.place / f"{name}{_NOTE}").read())
        named = {name.removesuffix(_ID) for name in names if name.endswith(_ID)}
        for name in sorted(named & set(self._unnamed)):
            self._add(name, (self.place / f"{name}{_ID}").read().decode())
        return sorted(self._unnamed)

    def begin(self, requests: Sequence[str]) -> str:
        """Note the requests of a batch that is to be sent, and return its name."""
        name = f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._read.add(name)
        (self.place / f"{name}{_NOTE}").write(json.dumps(list(requests)).encode())
        return name

    def note_id(self, name: str, batch: str) -> None:
        """Note the server's id of a batch of any process."""
        (self.place / f"{name}{_ID}").write(batch.encode())
        if name in self._unnamed:
            self._add(name, batch)

    def take(self, request: str) -> str | None:
        """Return the id of the newest batch that may hold an answer to a request; the next call returns another one.

        So a request that a batch left without a useful answer is not looked for in the same batch again.
        """
        batches = self._batches.get(request)
        if not batches:
            return None
        batch = batches.pop()
        if not batches:
            del self._batches[request]
        return batch

    def _add(self, name: str, batch: str) -> None:
        for request in self._unnamed.pop(name):
            self._batches.setdefault(request, []).append(batch)
