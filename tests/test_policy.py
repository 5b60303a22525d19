from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Fixed, Policy, UntilCorrect
from reasonray.policy import Progress, is_satisfied, most, owed

POLICIES = st.one_of(
    st.builds(Fixed, samples=st.integers(1, 12)),
    st.builds(
        lambda target, extra, wave: UntilCorrect(kind="until_correct", target=target, max=target + extra, wave=wave),
        st.integers(1, 4),
        st.integers(0, 8),
        st.integers(1, 6),
    ),
)


@given(POLICIES, st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)), st.integers(0, 5))
def test_nothing_is_owed_twice_and_no_index_is_beyond_the_policy(
    policy: Policy, done: set[int], flying: set[int], correct: int
) -> None:
    start = owed(policy, Progress(done, flying - done, correct))
    assert not set(start) & (done | flying)
    assert all(sample < most(policy) for sample in start)
    assert len(set(start)) == len(start)


@given(POLICIES, st.data())
def test_drawing_what_is_owed_ends_satisfied_within_the_policys_most(policy: Policy, data: st.DataObject) -> None:
    done: set[int] = set()
    correct = 0
    while not is_satisfied(policy, Progress(done, set(), correct)):
        start = owed(policy, Progress(done, set(), correct))
        assert start, "a policy that is not satisfied must owe something when nothing flies"
        done.add(start[0])
        correct += data.draw(st.booleans())
    assert len(done) <= most(policy)


def test_until_correct_stops_at_its_target_and_keeps_to_its_wave() -> None:
    policy = UntilCorrect(kind="until_correct", target=2, max=10, wave=3)
    assert owed(policy, Progress(set(), set(), 0)) == [0, 1, 2]
    assert owed(policy, Progress({0}, {1, 2}, 1)) == [3]
    assert is_satisfied(policy, Progress({0, 1}, {2}, 2))
    assert owed(policy, Progress({0, 1}, {2}, 2)) == []


def test_raising_k_owes_only_the_difference() -> None:
    assert owed(Fixed(samples=6), Progress({0, 1, 2, 3}, set(), 4)) == [4, 5]
