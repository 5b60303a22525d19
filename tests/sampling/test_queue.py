"""The queue of unfinished problems and the records of a sampling job; no Ray."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Fixed, Prompt, Sampling, VLLMEngine
from reasonray.records import Outcome
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Counts, EngineSpec, ProblemState, ResolvedJob
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from reasonray.store.stored_samples import StoredSamples
from tests.factories import a_problem


def a_job(name: str = "a", samples: int = 4, **changes: object) -> ResolvedJob:
    sampling, policy, ledger = Sampling(max_tokens=128), Fixed(samples=samples), Ledger(place(Path("nowhere")))
    return ResolvedJob(name, "m", "f", Prompt(), sampling, policy, ledger, 0, **changes)


def a_state(question: str, difficulty: str = "easy") -> ProblemState:
    return ProblemState(a_problem(question, difficulty=difficulty))


def counts_with_lengths(**tokens: int) -> Counts:
    """Counts of ten rollouts of each difficulty, with the given mean length."""
    counts = Counts()
    for difficulty, length in tokens.items():
        counts.rollouts_by_difficulty[difficulty] = 10
        counts.tokens_by_difficulty[difficulty] = 10 * length
    return counts


def test_problems_with_the_longest_expected_rollouts_go_first() -> None:
    queue, job = ProblemQueue(), a_job()
    for difficulty in ("easy", "hard", "medium"):
        queue.add(job, a_state(f"{difficulty}?", difficulty))
    queue.update_lengths("a", counts_with_lengths(easy=50, medium=200, hard=900))
    assert [queue.pop(1)[0][1].problem.difficulty for _ in range(3)] == ["hard", "medium", "easy"]


def test_a_difficulty_without_statistics_goes_before_all_others() -> None:
    queue, job = ProblemQueue(), a_job()
    queue.add(job, a_state("known?", "easy"))
    queue.add(job, a_state("unknown?", "odd"))
    queue.update_lengths("a", counts_with_lengths(easy=50))
    assert queue.pop(1)[0][1].problem.difficulty == "odd"


def test_returned_problems_go_before_new_ones() -> None:
    queue, job = ProblemQueue(), a_job()
    queue.add(job, a_state("new?"))
    queue.add(job, a_state("returned?"), first=True)
    assert [state.problem.question for _, state in queue.pop(100)] == ["returned?", "new?"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["easy", "hard"])), max_size=40), st.integers(1, 30))
def test_every_problem_is_popped_once_and_a_group_has_one_job(entries: list[tuple[str, str]], samples: int) -> None:
    queue, jobs = ProblemQueue(), {name: a_job(name) for name in "ab"}
    for number, (name, difficulty) in enumerate(entries):
        queue.add(jobs[name], a_state(f"{number}?", difficulty))
    popped = []
    while group := queue.pop(samples):
        assert len({job.name for job, _ in group}) == 1
        assert len(group) <= max(1, -(-samples // 4))
        popped += [state.problem.question for _, state in group]
    assert sorted(popped) == sorted(f"{number}?" for number in range(len(entries)))
    assert len(queue) == 0


def test_a_truncated_sample_is_unfinished_again_once_max_tokens_is_raised() -> None:
    stored = StoredSamples(frozenset({0, 1, 2}), 1, 200, {1: (0, 64), 2: (2, 90)}, judged=3)
    problem = a_problem()
    before = a_job().problem_state(problem, stored)
    assert (before.finished, before.resamples) == (frozenset({0, 1, 2}), {}), "no earlier limit is known"
    after = a_job(earlier_max_tokens=frozenset({64})).problem_state(problem, stored)
    assert (after.finished, after.resamples, after.judged) == (frozenset({0, 2}), {1: 1}, 2), (
        "90 tokens: the context truncated it, not the limit"
    )


def test_counts_can_be_added_and_subtracted() -> None:
    one, two = counts_with_lengths(easy=5), counts_with_lengths(easy=7, hard=9)
    one.outcomes[Outcome.CORRECT.value] = 3
    two.add(one)
    two.subtract(one)
    assert two.rollouts_by_difficulty == {"easy": 10, "hard": 10}
    assert two.tokens_by_difficulty == {"easy": 70, "hard": 90}
    assert not +two.outcomes


def test_engine_specs_with_other_arguments_differ() -> None:
    one = EngineSpec("m", None, VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0)
    other = EngineSpec("m", None, VLLMEngine(args={"block_size": 16}), 0, 1, 1.0, 0)
    assert len({one, other, one}) == 2
    assert one.serves(EngineSpec("n", "main", VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0))
    assert not one.serves(other)
