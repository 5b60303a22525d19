from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from reasonray.config import Band, Fixed, Policy, Proportional, UntilCorrect
from reasonray.sampling.policy import SampleState, below, is_satisfied, most, owed, wanted

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
def test_nothing_is_owed_twice_and_no_index_is_beyond_the_policy(
    policy: Policy, done: set[int], in_flight: set[int], correct: int
) -> None:
    correct = min(correct, len(done))
    start = owed(policy, SampleState(done, in_flight - done, correct, len(done)))
    assert not set(start) & (done | in_flight)
    assert all(sample < most(policy) for sample in start)
    assert len(set(start)) == len(start)
    assert len(done) + len(in_flight - done) + len(start) <= max(most(policy), len(done | in_flight))


@given(POLICIES, st.data())
def test_drawing_what_is_owed_ends_satisfied_within_the_policys_most(policy: Policy, data: st.DataObject) -> None:
    done: set[int] = set()
    correct = 0
    while not is_satisfied(policy, SampleState(done, set(), correct, len(done))):
        start = owed(policy, SampleState(done, set(), correct, len(done)))
        assert start, "a policy that is not satisfied must owe something when nothing flies"
        done.add(start[0])
        correct += data.draw(st.booleans())
    assert len(done) <= most(policy)


def drawn(policy: Policy, answer: Callable[[], bool]) -> tuple[int, int]:
    """Draw one attempt after the other; return how many were drawn and how many were correct."""
    done: set[int] = set()
    correct = 0
    while not is_satisfied(policy, SampleState(done, set(), correct, len(done))):
        done.add(owed(policy, SampleState(done, set(), correct, len(done)))[0])
        correct += answer()
    return len(done), correct


def test_until_correct_stops_at_its_target_and_keeps_to_its_wave() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=10, wave=3)
    assert owed(policy, SampleState(set(), set(), 0, 0)) == [0, 1, 2]
    assert is_satisfied(policy, SampleState({0, 1}, {2}, 2, 2))
    assert owed(policy, SampleState({0, 1}, {2}, 2, 2)) == []


def test_until_correct_starts_no_more_than_what_is_missing_will_take() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=20, wave=8)
    assert owed(policy, SampleState({0}, {1, 2}, 1, 1)) == [], (
        "one is missing, and two that fly will do at this pass rate"
    )
    assert len(owed(policy, SampleState({0, 1, 2}, set(), 0, 3))) == 8, "at a low pass rate the wave is the limit"


def test_until_correct_gives_up_on_a_problem_without_one() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=20, give_up=6)
    assert drawn(policy, lambda: False) == (6, 0)
    first = iter([True, *[False] * 19])
    assert drawn(policy, lambda: next(first)) == (20, 1), "one correct answer is a reason to go on"


def test_what_could_not_be_judged_says_nothing_of_the_pass_rate() -> None:
    band = Band(kind="band", low=0.2, high=0.8, samples=32)
    faults = set(range(13))
    assert not is_satisfied(band, SampleState(faults, set(), 0, 0)), "thirteen faults do not make a problem hard"
    assert is_satisfied(band, SampleState(faults, set(), 0, 13))
    policy = UntilCorrect(kind="until_correct", target=1, max=20, give_up=6)
    assert not is_satisfied(policy, SampleState(faults, set(), 0, 5))
    assert is_satisfied(policy, SampleState(set(range(20)), set(), 0, 0)), "the most that a problem may cost holds"


@pytest.mark.parametrize(("pass_rate", "correct"), [(1.0, 1), (0.5, 4), (0.25, 6)])
def test_proportional_wants_more_correct_ones_of_harder_problems(pass_rate: float, correct: int) -> None:
    policy = Proportional(kind="proportional", pilot=8, target=8, max=64)
    found = round(8 * pass_rate)
    assert wanted(policy, 8, found) == correct


@given(st.integers(4, 40), st.data())
def test_proportional_never_wants_more_of_an_easier_problem(done: int, data: st.DataObject) -> None:
    policy = Proportional(kind="proportional", pilot=4, target=8)
    few = data.draw(st.integers(0, done))
    many = data.draw(st.integers(few, done))
    assert policy.least <= wanted(policy, done, many) <= wanted(policy, done, few) <= policy.target


def test_band_leaves_what_is_too_easy_or_too_hard_and_draws_all_of_the_rest() -> None:
    policy = Band(kind="band", low=0.2, high=0.8, samples=32)
    hard, easy = drawn(policy, lambda: False), drawn(policy, lambda: True)
    assert hard == (13, 0), "0 of 13: (1 - 0.2)^14 is below 0.05, (1 - 0.2)^13 is not"
    assert easy == (13, 13)
    fair = Random(7)
    assert drawn(policy, lambda: fair.random() < 0.5)[0] == 32


@given(st.integers(0, 60), st.data(), st.floats(0, 1), st.floats(0, 1))
def test_the_posterior_is_a_distribution_function(done: int, data: st.DataObject, one: float, other: float) -> None:
    correct = data.draw(st.integers(0, done))
    low, high = sorted((one, other))
    assert -1e-12 <= below(low, done, correct) <= below(high, done, correct) + 1e-12 <= 1 + 1e-9
    assert below(0.0, done, correct) == pytest.approx(0)
    assert below(1.0, done, correct) == pytest.approx(1)
    mirrored = 1 - below(1 - low, done, done - correct)
    assert below(low, done, correct) == pytest.approx(mirrored, abs=1e-9)


def test_raising_k_owes_only_the_difference() -> None:
    assert owed(Fixed(samples=6), SampleState({0, 1, 2, 3}, set(), 4, 4)) == [4, 5]


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
