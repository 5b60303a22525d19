"""Sampling policies: which samples to start next, and when a problem has enough."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reasonray.config import Band, Fixed, Policy, Proportional, UntilCorrect
from reasonray.records import Outcome
from reasonray.sampling.policy import (
    ProblemState,
    correct_wanted,
    frontier,
    is_satisfied,
    max_samples,
    next_samples,
    probability_below,
    probability_within,
)

GIVE_UP = st.one_of(st.none(), st.integers(4, 8))
POLICIES = st.one_of(
    st.builds(Fixed, samples=st.integers(1, 12)),
    st.builds(
        lambda target, extra, wave, give_up: UntilCorrect(
            kind="until_correct", target=target, max=8 + extra, wave=wave, give_up=give_up
        ),
        st.integers(1, 4),
        st.integers(0, 8),
        st.integers(1, 6),
        GIVE_UP,
    ),
    st.builds(
        lambda target, extra, wave, give_up: Proportional(
            kind="proportional", pilot=4, target=target, max=8 + extra, wave=wave, give_up=give_up
        ),
        st.integers(1, 8),
        st.integers(0, 8),
        st.integers(1, 6),
        GIVE_UP,
    ),
    st.builds(
        lambda samples, wave: Band(kind="band", low=0.2, high=0.8, samples=samples, wave=wave),
        st.integers(1, 12),
        st.integers(1, 6),
    ),
)


@given(POLICIES, st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)), st.integers(0, 5))
def test_no_sample_is_started_twice_or_beyond_the_policys_maximum(
    policy: Policy, finished: set[int], in_flight: set[int], correct: int
) -> None:
    correct = min(correct, len(finished))
    start = next_samples(policy, ProblemState(finished, in_flight - finished, correct, len(finished)))
    assert not set(start) & (finished | in_flight)
    assert all(sample < max_samples(policy) for sample in start)
    assert len(set(start)) == len(start)
    assert len(finished) + len(in_flight - finished) + len(start) <= max(max_samples(policy), len(finished | in_flight))


@given(POLICIES, st.data())
def test_starting_the_next_samples_satisfies_the_policy_within_its_maximum(policy: Policy, data: st.DataObject) -> None:
    finished: set[int] = set()
    correct = 0
    while not is_satisfied(policy, ProblemState(finished, set(), correct, len(finished))):
        start = next_samples(policy, ProblemState(finished, set(), correct, len(finished)))
        assert start, "an unsatisfied policy starts a sample if none is in flight"
        finished.add(start[0])
        correct += data.draw(st.booleans())
    assert len(finished) <= max_samples(policy)


def sampled(policy: Policy, answer: Callable[[], bool]) -> tuple[int, int]:
    """Take one sample after the other; return how many there were and how many were correct."""
    finished: set[int] = set()
    correct = 0
    while not is_satisfied(policy, ProblemState(finished, set(), correct, len(finished))):
        finished.add(next_samples(policy, ProblemState(finished, set(), correct, len(finished)))[0])
        correct += answer()
    return len(finished), correct


def test_until_correct_stops_at_its_target_and_starts_one_wave_at_a_time() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=10, wave=3)
    assert next_samples(policy, ProblemState(set(), set(), 0, 0)) == [0, 1, 2]
    assert is_satisfied(policy, ProblemState({0, 1}, {2}, 2, 2))
    assert next_samples(policy, ProblemState({0, 1}, {2}, 2, 2)) == []


def test_until_correct_starts_no_more_samples_than_it_expects_to_need() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=20, wave=8)
    assert next_samples(policy, ProblemState({0}, {1, 2}, 1, 1)) == [], (
        "one is missing, and two in flight are enough at this pass rate"
    )
    assert len(next_samples(policy, ProblemState({0, 1, 2}, set(), 0, 3))) == 8, (
        "at a low pass rate the wave is the limit"
    )


def test_until_correct_gives_up_on_a_problem_without_a_correct_sample() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=20, give_up=6)
    assert sampled(policy, lambda: False) == (6, 0)
    first = iter([True, *[False] * 19])
    assert sampled(policy, lambda: next(first)) == (20, 1), "one correct answer is a reason to go on"


def test_samples_that_could_not_be_judged_do_not_count_for_the_pass_rate() -> None:
    band = Band(kind="band", low=0.2, high=0.8, samples=32)
    faults = set(range(13))
    assert not is_satisfied(band, ProblemState(faults, set(), 0, 0)), "thirteen faults do not make a problem hard"
    assert is_satisfied(band, ProblemState(faults, set(), 0, 13))
    policy = UntilCorrect(kind="until_correct", target=1, max=20, give_up=6)
    assert not is_satisfied(policy, ProblemState(faults, set(), 0, 5))
    assert is_satisfied(policy, ProblemState(set(range(20)), set(), 0, 0)), "the maximum number of samples still holds"


@pytest.mark.parametrize(("pass_rate", "correct"), [(1.0, 1), (0.5, 4), (0.25, 6)])
def test_proportional_wants_more_correct_samples_of_harder_problems(pass_rate: float, correct: int) -> None:
    policy = Proportional(kind="proportional", pilot=8, target=8, max=64)
    successes = round(8 * pass_rate)
    assert correct_wanted(policy, 8, successes) == correct


@given(st.integers(4, 40), st.data())
def test_proportional_never_wants_more_correct_samples_of_an_easier_problem(judged: int, data: st.DataObject) -> None:
    policy = Proportional(kind="proportional", pilot=4, target=8)
    few = data.draw(st.integers(0, judged))
    many = data.draw(st.integers(few, judged))
    of_easier, of_harder = correct_wanted(policy, judged, many), correct_wanted(policy, judged, few)
    assert policy.least <= of_easier <= of_harder <= policy.target


def test_band_stops_early_on_problems_outside_it_and_samples_the_others_in_full() -> None:
    policy = Band(kind="band", low=0.2, high=0.8, samples=32)
    hard, easy = sampled(policy, lambda: False), sampled(policy, lambda: True)
    assert hard == (13, 0), "0 of 13: (1 - 0.2)^14 is below 0.05, (1 - 0.2)^13 is not"
    assert easy == (13, 13)
    fair = Random(7)
    assert sampled(policy, lambda: fair.random() < 0.5)[0] == 32


@given(st.integers(0, 60), st.data(), st.floats(0, 1), st.floats(0, 1))
def test_the_posterior_is_a_distribution_function(judged: int, data: st.DataObject, one: float, other: float) -> None:
    correct = data.draw(st.integers(0, judged))
    low, high = sorted((one, other))
    below_low, below_high = probability_below(low, judged, correct), probability_below(high, judged, correct)
    assert -1e-12 <= below_low <= below_high + 1e-12 <= 1 + 1e-9
    assert probability_below(0.0, judged, correct) == pytest.approx(0)
    assert probability_below(1.0, judged, correct) == pytest.approx(1)
    mirrored = 1 - probability_below(1 - low, judged, judged - correct)
    assert below_low == pytest.approx(mirrored, abs=1e-9)


def test_raising_k_starts_only_the_difference() -> None:
    assert next_samples(Fixed(samples=6), ProblemState({0, 1, 2, 3}, set(), 4, 4)) == [4, 5]


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda: UntilCorrect(kind="until_correct", target=9, max=8), "can never be met"),
        (lambda: UntilCorrect(kind="until_correct", target=2, max=8, give_up=9), "above max"),
        (lambda: Proportional(kind="proportional", target=9, max=8), "can never be met"),
        (lambda: Proportional(kind="proportional", pilot=8, max=16, give_up=4), "must lie between"),
        (lambda: Band(kind="band", low=0.9, high=0.1), "no pass rate lies between them"),
    ],
)
def test_a_policy_that_cannot_be_met_is_refused(policy: Callable[[], Policy], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        policy()


@given(POLICIES, st.integers(0, 20), st.lists(st.booleans(), min_size=20, max_size=20))
def test_a_problem_with_fewer_samples_than_the_policy_wants_ends_when_they_are_used(
    policy: Policy, limit: int, verdicts: list[bool]
) -> None:
    state = ProblemState(limit=limit)
    while not is_satisfied(policy, state):
        start = next_samples(policy, state)
        assert start, "an unsatisfied problem always has a sample to start"
        assert max(start) < limit
        for sample in start:
            state.record(sample, Outcome.CORRECT if verdicts[sample] else Outcome.WRONG)
    assert len(state.finished) <= min(limit, max_samples(policy))
    assert next_samples(policy, state) == []


@given(st.lists(st.integers(0, 12).flatmap(lambda judged: st.tuples(st.just(judged), st.integers(0, judged)))))
def test_the_frontier_holds_what_probably_lies_within_and_begins_with_the_most_probable(
    counts: list[tuple[int, int]],
) -> None:
    judged, correct = [count[0] for count in counts], [count[1] for count in counts]
    chosen = frontier((0.1, 0.9), judged, correct)
    within = [probability_within(0.1, 0.9, *count) for count in counts]
    assert sorted(chosen) == [index for index, share in enumerate(within) if share >= 0.5]
    assert [within[index] for index in chosen] == sorted((within[index] for index in chosen), reverse=True)


def test_the_frontier_weighs_a_pass_rate_by_its_evidence() -> None:
    chosen = frontier((0.1, 0.9), [0, 4, 8, 4, 8, 8], [0, 0, 0, 4, 8, 4])
    assert chosen[0] == 5
    assert set(chosen) == {0, 1, 3, 5}, "0 of 4 is little evidence, 0 of 8 is enough"
    assert probability_within(0.0, 1.0, 5, 2) == pytest.approx(1.0)
