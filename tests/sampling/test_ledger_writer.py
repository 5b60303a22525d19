"""When finished rollouts are committed, and what becomes of one that cannot be."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Storage
from reasonray.records import Finish, Outcome, Verdict
from reasonray.sampling.ledger_writer import LedgerWriter
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(place(tmp_path))


def test_a_commit_is_due_by_size(ledger: Ledger) -> None:
    writer = LedgerWriter(Storage(commit_megabytes=0.01), Clock())
    writer.add(ledger, a_rollout("x" * 6000, sample=0))
    assert not writer.due()
    writer.add(ledger, a_rollout("x" * 6000, sample=1))
    assert writer.due()
    asyncio.run(writer.commit())
    assert (writer.uncommitted, writer.due()) == (0, False)
    writer.add(ledger, a_rollout("x" * 6000, sample=2))
    assert not writer.due(), "what is committed does not count"


def test_a_commit_is_due_when_the_oldest_rollout_has_waited_long_enough(ledger: Ledger) -> None:
    clock = Clock()
    writer = LedgerWriter(Storage(commit_seconds=6), clock)
    clock.now += 1000
    assert not writer.due()
    writer.add(ledger, a_rollout(sample=0))
    clock.now += 3
    writer.add(ledger, a_rollout(sample=1))
    assert not writer.due()
    clock.now += 3
    assert writer.due()
    assert writer.uncommitted == 2


def test_the_first_commits_come_early_so_that_a_run_can_be_looked_at(ledger: Ledger) -> None:
    clock = Clock()
    writer = LedgerWriter(Storage(commit_seconds=60), clock)
    waits = []
    for number in range(6):
        writer.add(ledger, a_rollout(sample=number))
        begun = clock.now
        while not writer.due():
            clock.now += 1
        waits.append(clock.now - begun)
        asyncio.run(writer.commit())
    assert waits == [8, 16, 32, 60, 60, 60]


def test_many_leases_of_few_rollouts_make_few_segments(ledger: Ledger) -> None:
    clock = Clock()
    writer = LedgerWriter(Storage(), clock)

    async def sample() -> None:
        for number in range(200):
            clock.now += 1.0
            writer.add(ledger, a_rollout(sample=number))
            if writer.due():
                await writer.commit()
        await writer.commit()

    asyncio.run(sample())
    assert len(ledger.segments()) == 6
    assert ledger.count() == 200


UNSTORABLE = st.sampled_from(
    [
        {"completion": "half a pair \ud83d"},
        {"completion_tokens": 2**40},
        {"completion_tokens": None},
        {"prompt_tokens": "many"},
        {"verdict": Verdict(outcome=Outcome.CORRECT, detail="\udfff")},
        {"completion": [{"text": "in parts"}]},
    ]
)


@given(UNSTORABLE, st.integers(0, 2))
@settings(max_examples=20, deadline=None)
def test_a_rollout_that_cannot_be_stored_is_an_error_and_the_others_are_stored(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, object], position: int
) -> None:
    ledger = Ledger(place(tmp_path_factory.mktemp("ledger")))
    rollouts = [a_rollout(sample=sample) for sample in range(2)]
    rollouts.insert(position, replace(a_rollout(problem=a_problem("hostile?")), **changes))
    writer = LedgerWriter()
    for rollout in rollouts:
        writer.add(ledger, rollout)
    asyncio.run(writer.commit())
    stored = ledger.read(["problem_question", "finish", "verdict_outcome", "verdict_detail", "completion"]).to_pylist()
    (error,) = (row for row in stored if row["problem_question"] == "hostile?")
    assert (error["finish"], error["verdict_outcome"]) == (Finish.ERROR, Outcome.FAILED)
    assert error["verdict_detail"].startswith("the completion cannot be stored: ")
    assert [row["verdict_outcome"] for row in stored].count("correct") == 2
