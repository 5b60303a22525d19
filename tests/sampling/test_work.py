"""The records of a sampling job; no Ray."""

from reasonray.config import VLLMEngine
from reasonray.records import Outcome
from reasonray.sampling.work import Counts, EngineSpec


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
