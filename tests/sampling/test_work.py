"""The records of a sampling job; no Ray."""

from pathlib import Path

from reasonray.config import Fixed, Prompt, Sampling, VLLMEngine
from reasonray.records import Outcome
from reasonray.sampling.work import Counts, EngineSpec, ResolvedJob
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from reasonray.store.stored_samples import StoredSamples


def a_job(**changes: object) -> ResolvedJob:
    sampling, policy, ledger = Sampling(max_tokens=128), Fixed(samples=4), Ledger(place(Path("nowhere")))
    return ResolvedJob("a", "m", None, "weights", "f", Prompt(), sampling, policy, ledger, 0, **changes)  # type: ignore[arg-type]


def test_a_truncated_sample_is_unfinished_again_once_max_tokens_is_raised() -> None:
    stored = StoredSamples(frozenset({0, 1, 2}), 1, 200, {1: (0, 64), 2: (2, 90)}, judged=3)
    state, resamples = a_job().state_of(stored)
    assert (state.finished, resamples) == ({0, 1, 2}, {}), "no earlier limit is known"
    state, resamples = a_job(earlier_max_tokens=frozenset({64})).state_of(stored)
    assert (state.finished, resamples, state.judged) == ({0, 2}, {1: 1}, 2), (
        "90 tokens: the context truncated it, not the limit"
    )


def test_a_sample_that_was_lost_leaves_no_trace_in_the_counts() -> None:
    counts = Counts()
    counts.add_sample(Outcome.CORRECT, 7, "easy")
    counts.add_sample(Outcome.WRONG, 9, "hard")
    counts.subtract_sample(Outcome.WRONG, 9, "hard")
    assert (counts.rollouts, counts.correct, counts.tokens) == (1, 1, 7)
    assert +counts.outcomes == {"correct": 1}
    assert (counts + counts).tokens_by_difficulty == {"easy": 14}


def test_engine_specs_with_other_arguments_differ() -> None:
    one = EngineSpec("m", None, VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0)
    other = EngineSpec("m", None, VLLMEngine(args={"block_size": 16}), 0, 1, 1.0, 0)
    assert len({one, other, one}) == 2
    assert one.can_serve(EngineSpec("n", "main", VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0))
    assert not one.can_serve(other)
