"""The states of a job's problems as arrays, against the ledger and against one problem at a time; no Ray."""

from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Fixed, UntilCorrect
from reasonray.records import Finish, Outcome, Problem, Rollout
from reasonray.sampling.policy import ProblemState, is_satisfied, next_samples
from reasonray.sampling.state import ProblemStates, Terms
from reasonray.store.ledger import Ledger
from reasonray.store.sample_arrays import no_samples
from reasonray.store.storage import place
from tests.factories import a_problem, a_rollout

OUTCOMES = st.sampled_from([Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.FAILED])


def stored(
    ledger: Ledger, problem: Problem, samples: int = 4, raised_from: frozenset[int] = frozenset()
) -> ProblemStates:
    arrays = ledger.sample_arrays([problem.id]).get("fingerprint") or no_samples(1)
    return ProblemStates.stored(Fixed(samples=samples), arrays, raised_from, 128)


def truncated(problem: Problem, sample: int, tokens: int) -> Rollout:
    return a_rollout(
        problem=problem,
        sample=sample,
        outcome=Outcome.TRUNCATED,
        finish=Finish.LENGTH,
        completion_tokens=tokens,
    )


def test_a_truncated_sample_is_unfinished_again_once_max_tokens_is_raised(tmp_path: Path) -> None:
    ledger, problem = Ledger(place(tmp_path)), a_problem()
    ledger.append([a_rollout(problem=problem, sample=0), truncated(problem, 1, 64), truncated(problem, 2, 90)])
    before = stored(ledger, problem)
    assert (before.state(0).finished, before.resamples(0)) == ({0, 1, 2}, {}), "no earlier limit is known"
    after = stored(ledger, problem, raised_from=frozenset({64}))
    state = after.state(0)
    assert (state.finished, after.resamples(0), state.judged, state.correct) == ({0, 2}, {1: 1}, 2, 1), (
        "90 tokens: the context truncated it, not the limit"
    )


def test_samples_beyond_a_smaller_k_are_counted(tmp_path: Path) -> None:
    ledger, problem = Ledger(place(tmp_path)), a_problem()
    ledger.append([a_rollout(problem=problem, sample=sample) for sample in range(20)])
    states = stored(ledger, problem, samples=3)
    assert states.is_satisfied(0)
    assert (int(states.num_finished[0]), states.remaining(0)) == (20, 0)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), OUTCOMES), max_size=60), st.integers(1, 80))
def test_the_arrays_agree_with_one_problem_at_a_time(samples: list[tuple[int, Outcome]], limit: int) -> None:
    policy = Fixed(samples=limit)
    states, each = ProblemStates(policy, 5), [ProblemState() for _ in range(5)]
    for problem, outcome in samples:
        if not is_satisfied(policy, each[problem]):
            sample = next_samples(policy, each[problem])[-1]
            states.record(problem, sample, outcome)
            each[problem].record(sample, outcome)
    assert [states.state(problem) for problem in range(5)] == each
    assert states.first_waves().tolist() == [len(next_samples(policy, state)) for state in each]
    assert [states.is_satisfied(problem) for problem in range(5)] == [is_satisfied(policy, state) for state in each]


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2), OUTCOMES), max_size=40), st.lists(st.integers(0, 9), min_size=3, max_size=3)
)
def test_terms_limit_each_problem_and_count_what_others_have(
    samples: list[tuple[int, Outcome]], limits: list[int]
) -> None:
    policy = UntilCorrect(kind="until_correct", target=3, max=8)
    earlier = np.array([0, 1, 4])
    states = ProblemStates(policy, 3, Terms(np.array(limits), earlier, earlier))
    each = [
        ProblemState(set(), set(), count, count, min(8, limit))
        for count, limit in zip(earlier.tolist(), limits, strict=True)
    ]
    for problem, outcome in samples:
        if not is_satisfied(policy, each[problem]):
            sample = next_samples(policy, each[problem])[0]
            states.record(problem, sample, outcome)
            each[problem].record(sample, outcome)
    assert [states.state(problem) for problem in range(3)] == each
    assert states.first_waves().tolist() == [len(next_samples(policy, state)) for state in each]
    assert [states.first_wave(problem) for problem in range(3)] == states.first_waves().tolist()
    assert [states.is_satisfied(problem) for problem in range(3)] == [is_satisfied(policy, state) for state in each]
    assert states.is_satisfied(2), "others have all the correct ones that are wanted"
    left = [min(8, limit) - len(state.finished) for limit, state in zip(limits, each, strict=True)]
    assert [states.remaining(problem) for problem in range(3)] == left
    assert states.total_remaining(np.ones(3, bool)) == sum(left)
