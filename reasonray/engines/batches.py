"""Requests gathered into batches for a server's `/v1/batches`, and the answers brought back to each.

A batch is answered within a day. What happens to the process meanwhile costs nothing: which requests are in which batch
is noted before the batch is sent (batch_journal.py), so whoever asks for the same sample again, after a restart or on
another replica, gets the answer of that batch.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, TypeVar, cast

import openai

from reasonray.config.engines import BatchEngine
from reasonray.engines.answers import NoCompletion, Rejected, read_json
from reasonray.engines.batch_files import BatchAnswer, BatchLine, BatchState, parts, read_answers, read_state
from reasonray.engines.batch_journal import BatchJournal
from reasonray.engines.protocol import SampleRequest
from reasonray.errors import UserError
from reasonray.store.storage import Place

T = TypeVar("T")

_CALL_SECONDS = 600.0
"""Time limit for each read and write of a call; files have some hundred megabytes."""
_LISTED = 100
"""Batches of one page of the server's list."""
_KEPT = 4
"""Batches that have ended, whose answers are kept for requests that are still to come."""
_NAME = "reasonray"
"""Key of the batch's metadata that holds its name in the journal."""


class Retried(Protocol):
    """Sends a request until the server answers or rejects it."""

    def __call__(self, send: Callable[[], Awaitable[T]], /) -> Awaitable[T]:
        """Return the answer."""


class Unanswered(NoCompletion):
    """A batch ended without an answer to a request."""


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its answer."""

    line: BatchLine
    place: Place
    """Of the journal."""
    answer: asyncio.Future[BatchAnswer]
    askers: int = 0
    """Calls that wait for it."""


@dataclass(slots=True, eq=False)
class _Batch:
    """A batch at the server, with the requests of this process that wait for it."""

    waiting: dict[str, _Waiting] = field(default_factory=dict)
    is_own: bool = False
    """This process has sent it, and not one before it."""
    answered: int = 0
    following: asyncio.Task[None] | None = None
    answers: dict[str, BatchAnswer] | None = None
    """Those not brought to a request yet; None until it has ended."""


class Batches:
    """Sends requests in batches."""

    def __init__(
        self, client: openai.AsyncOpenAI, config: BatchEngine, retried: Retried, report: Callable[[str], None]
    ) -> None:
        """Create a sender.

        Args:
            client: of the server.
            config: the engine's section.
            retried: sends a request until it is answered or rejected.
            report: gets a line on what the server is doing.
        """
        self._client, self._config = client.with_options(timeout=_CALL_SECONDS), config
        self._retried, self._report = retried, report
        self._asked: dict[str, _Waiting] = {}
        """Requests without an answer, by custom id."""
        self._new: dict[str, _Waiting] = {}
        """Those of them that are in no batch yet."""
        self._changed = asyncio.Event()
        self._gathering: asyncio.Task[None] | None = None
        self._journals: dict[Place, BatchJournal] = {}
        self._batches: dict[str, _Batch] = {}
        self._note = ""
        """What happened to the last batch that did not end well."""

    async def post(self, path: str, body: Mapping[str, Any], request: SampleRequest) -> Any:
        """Send a request in a batch, and return the body of its answer when the batch has ended.

        Raises:
            Rejected: the server rejected the request.
            NoCompletion: the batch ended without an answer.
            UserError, EngineDied: the server takes no batches, or is gone.
        """
        assert request.notes is not None, "a request for a batch says where the run keeps notes"
        line = BatchLine.of(request.seed, path, body)
        waiting = self._asked.get(line.custom_id) or self._ask(line, request.notes / "batches")
        waiting.askers += 1
        try:
            answer = await asyncio.shield(waiting.answer)
        finally:
            waiting.askers -= 1
            if not waiting.askers and line.custom_id in self._new:  # cancelled before it was sent
                del self._new[line.custom_id]
                waiting.answer.cancel()
        if answer.status == 0:
            raise Unanswered(f"the batch left it out: {json.dumps(answer.body)[:200]}")
        if answer.status >= 400:
            raise Rejected(answer.status, answer.body)
        return answer.body

    def _ask(self, line: BatchLine, place: Place) -> _Waiting:
        waiting = _Waiting(line, place, asyncio.get_running_loop().create_future())
        waiting.answer.add_done_callback(lambda _: self._asked.pop(line.custom_id))
        self._asked[line.custom_id] = self._new[line.custom_id] = waiting
        self._changed.set()
        if self._gathering is None:
            self._gathering = asyncio.create_task(self._gather())
        return waiting

    async def _gather(self) -> None:
        """Send batches as long as there are new requests."""
        try:
            while self._new:
                await self._quiet()
                waiting, self._new = list(self._new.values()), {}
                try:
                    await self._send(waiting)
                except Exception as error:  # whatever it is, the requests must not wait for ever
                    _fail(waiting, error)
        finally:
            self._gathering = None

    async def _quiet(self) -> None:
        """Wait until no request has come for a while, or a batch is full."""
        while len(self._new) < self._config.batch_requests:
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), self._config.gather_seconds)
            except TimeoutError:
                return

    async def _send(self, waiting: Sequence[_Waiting]) -> None:
        """Have each request wait for the batch that it is in already, or for a new one."""
        for place in dict.fromkeys(one.place for one in waiting):
            journal = self._journals.setdefault(place, BatchJournal(place))
            if unnamed := await asyncio.to_thread(journal.refresh):
                await self._find(journal, unnamed)
            unsent: dict[str, _Waiting] = {}
            for one in waiting:
                if one.place == place and not one.answer.done():
                    batch = journal.take(one.line.custom_id)
                    if batch is None:
                        unsent[one.line.custom_id] = one
                    else:
                        self._follow(batch, [one])
            limits = self._config.batch_requests, self._config.batch_megabytes * 1e6
            for part in parts([one.line for one in unsent.values()], *limits):
                batch = await self._create(journal, part)
                self._follow(batch, [unsent[line.custom_id] for line in part], is_own=True)

    async def _find(self, journal: BatchJournal, unnamed: Sequence[str]) -> None:
        """Find batches in the server's list whose ids were not noted. Those that are not there were never sent."""
        missing, after = set(unnamed), ""
        oldest = min(int(name.partition("-")[0]) for name in unnamed) / 1e9 - 3600
        while missing:
            listed = self._client.batches.with_raw_response
            page = await self._call(partial(listed.list, limit=_LISTED, after=after or openai.omit))
            found = page.get("data") if isinstance(page, dict) else None
            batches = [batch for batch in found if isinstance(batch, dict)] if isinstance(found, list) else []
            for batch in batches:
                metadata = batch.get("metadata")
                name = metadata.get(_NAME) if isinstance(metadata, dict) else None
                if name in missing:
                    missing.discard(name)
                    await asyncio.to_thread(journal.note_id, name, str(batch.get("id")))
            begun = [batch["created_at"] for batch in batches if isinstance(batch.get("created_at"), int)]
            last = str(batches[-1].get("id")) if batches else after
            if last == after or not page.get("has_more") or (begun and min(begun) < oldest):
                return
            after = last

    async def _create(self, journal: BatchJournal, lines: Sequence[BatchLine]) -> str:
        """Send a batch and return its id."""
        name = await asyncio.to_thread(journal.begin, [line.custom_id for line in lines])
        content = b"".join(line.content for line in lines)
        files, batches = self._client.files.with_raw_response, self._client.batches.with_raw_response
        file = await self._call(partial(files.create, file=(f"{name}.jsonl", content), purpose="batch"))
        batch = await self._call(
            partial(
                batches.create,
                input_file_id=_id(file),
                endpoint=cast(Any, lines[0].url),
                completion_window=cast(Any, self._config.completion_window),  # some servers know others than 24h
                metadata={_NAME: name},
            )
        )
        await asyncio.to_thread(journal.note_id, name, _id(batch))
        return _id(batch)

    def _follow(self, batch_id: str, waiting: Sequence[_Waiting], *, is_own: bool = False) -> None:
        """Have requests wait for the end of a batch."""
        batch = self._batches.setdefault(batch_id, _Batch(is_own=is_own))
        batch.waiting |= {one.line.custom_id: one for one in waiting}
        if batch.answers is not None:
            self._deliver(batch_id, batch, "")
        elif batch.following is None:
            batch.following = asyncio.create_task(self._wait(batch_id, batch))

    async def _wait(self, batch_id: str, batch: _Batch) -> None:
        """Wait for the end of a batch, and bring its answers to the requests."""
        try:
            state = await self._state(batch_id)
            while not state.has_ended:
                batch.answered = state.answered
                self._show()
                await asyncio.sleep(self._config.poll_seconds)
                state = await self._state(batch_id)
            if state.status == "failed":
                await self._on_failed(batch_id, batch, state)
                return
            answers: dict[str, BatchAnswer] = {}
            for file in state.files:
                answers |= read_answers(await self._content(file))
            batch.answers = answers
            self._deliver(batch_id, batch, state.status)
        except openai.NotFoundError:  # servers keep batches and their files for some weeks
            batch.answers = {}
            self._deliver(batch_id, batch, "is gone")
        except Exception as error:  # whatever it is, the requests must not wait for ever
            _fail(list(batch.waiting.values()), error)
            del self._batches[batch_id]
        finally:
            batch.following = None
            self._show()

    async def _on_failed(self, batch_id: str, batch: _Batch, state: BatchState) -> None:
        """Send a batch again that met a full queue, or that an earlier process sent; other faults meet every batch."""
        if state.is_queue_full:
            self._note = f"batch {batch_id} found the server's queue full and is sent again"
            self._show()
            await asyncio.sleep(self._config.poll_seconds)
        elif batch.is_own:
            raise UserError(f"{self._config.base_url} refuses batch {batch_id}: {state.fault}")
        del self._batches[batch_id]
        for one in batch.waiting.values():
            if not one.answer.done():
                self._new[one.line.custom_id] = one
        if self._new and self._gathering is None:
            self._gathering = asyncio.create_task(self._gather())

    def _deliver(self, batch_id: str, batch: _Batch, status: str) -> None:
        """Bring the answers of a batch that has ended to the requests that wait for it."""
        assert batch.answers is not None
        missing = [one for custom_id, one in batch.waiting.items() if custom_id not in batch.answers]
        reason = f"batch {batch_id} {status or 'ended'} without an answer to {len(missing)} of its requests"
        if missing:
            self._note = reason
        _fail(missing, Unanswered(reason))
        for custom_id, one in batch.waiting.items():
            if (answer := batch.answers.pop(custom_id, None)) and not one.answer.done():
                one.answer.set_result(answer)
        batch.waiting = {}
        for ended in [name for name, other in self._batches.items() if other.answers is not None][:-_KEPT]:
            del self._batches[ended]  # whoever asks for one of its answers reads them again

    async def _state(self, batch_id: str) -> BatchState:
        async def read() -> BatchState:
            return read_state(read_json((await self._client.batches.with_raw_response.retrieve(batch_id)).content))

        return await self._retried(read)

    async def _content(self, file: str) -> bytes:
        async def read() -> bytes:
            return (await self._client.files.content(file)).content

        return await self._retried(read)

    async def _call(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """Return the JSON of an answer; raw, because the client's own reading believes whatever a server sends."""

        async def read() -> Any:
            return read_json((await send()).content)

        try:
            return await self._retried(read)
        except openai.APIStatusError as error:
            raise UserError(f"{self._config.base_url} takes no batches: {str(error)[:300]}") from None

    def _show(self) -> None:
        """Report what the server is doing."""
        open_batches = [batch for batch in self._batches.values() if batch.answers is None]
        waiting = sum(len(batch.waiting) for batch in open_batches)
        answered = sum(min(batch.answered, len(batch.waiting)) for batch in open_batches)
        plural = "es" if len(open_batches) != 1 else ""
        text = f"{len(open_batches)} batch{plural} at the server, {answered:,} of {waiting:,} answered"
        self._report("; ".join(filter(None, (text if open_batches else "", self._note))))


def _id(document: Any) -> str:
    """Return the id of a file or a batch that the server has made."""
    found = document.get("id") if isinstance(document, dict) else None
    if not isinstance(found, str) or not found:
        raise NoCompletion(f"no id in {json.dumps(document)[:200]}")
    return found


def _fail(waiting: Sequence[_Waiting], error: BaseException) -> None:
    for one in waiting:
        if not one.answer.done():
            one.answer.set_exception(error)
