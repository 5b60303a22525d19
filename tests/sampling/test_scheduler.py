"""The scheduler in virtual time: whatever happens, every problem gets what its policy wants, once. No Ray."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasonray.config import Failures, Fixed, Policy, UntilCorrect, UserError
from reasonray.records import Outcome
from reasonray.sampling.events import ClusterChanged, Release, ReplicaUp, Start
from reasonray.sampling.policy import max_samples
from reasonray.sampling.work import Isolation
from tests.sampling.virtual import World

OUTCOMES = st.sampled_from([Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.FAILED])
POLICIES = st.one_of(
    st.builds(Fixed, samples=st.integers(1, 5)),
    st.builds(
        UntilCorrect,
        kind=st.just("until_correct"),
        target=st.integers(1, 2),
        max=st.integers(3, 6),
        wave=st.integers(1, 3),
    ),
)
HAPPENINGS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *["tick", "place", "up", "commit", "die", "lose node", "drain", "late", "poison"],
                *["finish", "report"] * 3,
            ]
        ),
        st.integers(0, 7),
        OUTCOMES,
    ),
    max_size=150,
)


def up(world: World, number: int = 0, node: str = "node-0") -> None:
    world.place(number, node)
    world.bring_up(number)


def happen(world: World, what: str, number: int, outcome: Outcome) -> None:
    """Let one thing happen to the replica (or the node) with about that number, if it is possible."""
    everyone = sorted(world.replicas)
    if what == "tick":
        world.tick()
    elif what == "drain":
        world.draining.add(f"node-{number % 3}")
    elif what == "lose node":
        world.lose_node(f"node-{number % 3}")
    elif what == "poison":
        world.poisonous.add((number % len(world.works), number, 0))
    elif what == "late" and (gone := world.scheduler._next_replica - 1) not in world.replicas and gone >= 0:
        world.late_message(gone)
    elif everyone:
        replica = world.replicas[everyone[number % len(everyone)]]
        if what == "place" and not replica.node:
            world.place(replica.number, f"node-{number % 3}")
        elif what == "up" and replica.node and not replica.is_up:
            world.bring_up(replica.number)
        elif what == "die":
            world.die(replica.number)
        elif replica.is_up and what in ("finish", "commit", "report"):
            if what == "finish":
                world.finish_sample(replica.number, outcome, which=number)
            elif what == "commit":
                world.commit(replica.number)
            else:
                world.report(replica.number)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1), POLICIES, st.integers(0, 12)), min_size=1, max_size=3),
    HAPPENINGS,
    st.integers(1, 6),
    st.integers(1, 4),
)
def test_every_problem_ends_with_what_its_policy_wants_whatever_happens(
    jobs: list[tuple[int, Policy, int]], happenings: list[tuple[str, int, Outcome]], capacity: int, room: int
) -> None:
    world = World(jobs, groups=2, capacity=capacity, room=room)
    most = sum(size * max_samples(policy) for _, policy, size in jobs)
    for what, number, outcome in happenings:
        happen(world, what, number, outcome)
        rollouts = sum(counts.rollouts for counts in world.scheduler.counts.values())
        assert 0 <= rollouts + world.scheduler.remaining() <= most, "no forecast beyond what the policies can ask for"
    world.draining.clear()
    world.run_to_the_end()
    world.check_results()
    assert world.scheduler.remaining() == 0
    for reasons in world.errors.values():
        assert all("gone" in reason for reason in reasons), "an ERROR has its reason"


@settings(max_examples=50, deadline=None)
@given(HAPPENINGS, HAPPENINGS)
def test_a_spent_budget_ends_the_stage_and_keeps_what_was_finished(
    before: list[tuple[str, int, Outcome]], after: list[tuple[str, int, Outcome]]
) -> None:
    world = World([(0, Fixed(samples=4), 12), (1, Fixed(samples=2), 6)], groups=2)
    for happening in before:
        happen(world, *happening)
    world.spend_budget()
    for happening in after:
        happen(world, *happening)
        assert not any(isinstance(action, Start) for action in world.scheduler.step(ClusterChanged(0.0, [9, 9])))
    finished = sum(len(replica.uncommitted) for replica in world.replicas.values())
    stored = sum(map(len, world.ledger.values()))
    rounds = world.run_to_the_end()
    assert rounds <= 2
    assert sum(map(len, world.ledger.values())) == stored + finished


def test_nothing_starts_for_jobs_without_problems() -> None:
    world = World([(0, Fixed(samples=2), 0)])
    world.tick()
    assert len(world.replicas) == 1, "its weights decide whether anything is left"
    up(world)
    assert world.scheduler.is_finished


def test_released_problems_go_to_the_emptiest_replica_and_not_back_to_the_one_that_releases() -> None:
    world = World([(0, Fixed(samples=4), 12)], replicas=(1, 2), capacity=24, room=2)
    world.tick()
    up(world, 0)
    assert len(world.replicas[0].problems) == 12, "alone it gets everything"
    world.tick()
    up(world, 1, "node-1")
    assert world.replicas[0].released is not None, "the second has nothing to do, so the first is asked"
    released = set(world.replicas[0].released)
    world.report(0)
    assert {problem for _, problem in released} == {problem for _, problem in world.replicas[1].problems}
    assert len(world.replicas[1].problems) == 6


def test_a_replica_that_has_none_to_release_is_not_asked_again() -> None:
    world = World([(0, Fixed(samples=4), 4)], replicas=(2, 2), capacity=16, room=2)
    world.tick()
    up(world, 0)
    for which in range(4):
        world.finish_sample(0, Outcome.WRONG, which)
    up(world, 1, "node-1")
    assert world.replicas[0].released == ()
    world.report(0)
    assert world.replicas[0].released is None


def test_a_node_that_is_lost_blames_no_problem() -> None:
    world = World([(0, Fixed(samples=16), 36)], replicas=(1, 1), capacity=1000, limits=Failures(in_a_row=2, deaths=3))
    for number in range(12):
        world.tick()
        up(world, number)
        world.lose_node("node-0")
    assert not world.works[0].states.deaths.any()
    world.run_to_the_end()
    world.check_results()
    assert not world.errors


def test_a_poisonous_sample_is_found_and_the_rest_of_its_problem_goes_on() -> None:
    world = World([(0, Fixed(samples=3), 9)], capacity=8)
    world.poisonous = {(0, 4, 1)}
    world.run_to_the_end()
    world.check_results()
    assert list(world.errors) == [(0, 4)]
    (reason,) = world.errors[0, 4]
    assert reason == "the engine died 4 times on this: gone"
    assert [world.ledger[0, 4][sample] for sample in range(3)] == [Outcome.WRONG, Outcome.FAILED, Outcome.WRONG]


def test_replicas_that_die_again_and_again_end_the_run_with_their_causes() -> None:
    world = World([(0, Fixed(samples=3), 9)], limits=Failures(in_a_row=3))
    for number in range(3):
        world.now += 60.0
        world.tick()
        world.place(number, "node-0")
        if number < 2:
            world.die(number)
    with pytest.raises(UserError, match=r"replicas of m0 died 3 times in a row .*: 3 x gone"):
        world.die(2)


def test_a_node_on_which_starts_fail_twice_is_avoided_and_others_go_on() -> None:
    world = World([(0, Fixed(samples=3), 90)], replicas=(2, 2), room=2, capacity=2, limits=Failures(in_a_row=3))
    world.tick()
    up(world, 0, "good")
    for number in (1, 2):
        world.finish_sample(0, Outcome.WRONG)
        world.commit(0)
        world.report(0)
        world.now += 60.0
        world.tick()
        world.place(number, "bad")
        world.die(number)
    assert world.scheduler.avoided_nodes(0) == {"bad"}


def test_a_replica_without_a_node_holds_no_accelerator() -> None:
    world = World([(0, Fixed(samples=3), 9)], replicas=(3, 3))
    world.tick()
    assert (len(world.replicas), world.scheduler.accelerators) == (3, 0)
    world.place(0, "node-0")
    assert world.scheduler.accelerators == 1
    assert world.scheduler.waiting() == [(0, 2)]


def test_a_finished_group_gives_its_replicas_back_when_another_waits() -> None:
    world = World([(0, Fixed(samples=1), 2), (1, Fixed(samples=1), 2)], groups=2, replicas=(1, 1), room=1)
    world.tick()
    world.tick()
    assert [replica.group for replica in world.replicas.values()] == [0], "there is room for one"
    up(world, 0)
    for _ in range(2):
        world.finish_sample(0, Outcome.WRONG)
    world.commit(0)
    world.report(0)
    world.tick()
    assert [replica.group for replica in world.replicas.values()] == [1]
    world.run_to_the_end()
    world.check_results()


def test_the_last_group_keeps_its_replicas_for_the_next_stage() -> None:
    world = World([(0, Fixed(samples=1), 2)], replicas=(2, 2))
    world.run_to_the_end()
    world.tick()
    assert len(world.replicas) == 2


def test_replicas_are_asked_for_only_as_the_backlog_warrants() -> None:
    world = World([(0, Fixed(samples=1), 20)], replicas=(1, 100), capacity=8, room=1000)
    world.tick()
    assert len(world.replicas) == 1
    up(world, 0)
    world.tick()
    assert len(world.replicas) == 3, "20 samples fill three replicas of capacity 8"


def test_replicas_that_still_start_are_stopped_when_no_work_is_left_for_them() -> None:
    world = World([(0, Fixed(samples=1), 20)], replicas=(1, 100), capacity=8, room=1000)
    world.tick()
    up(world, 0)
    world.tick()
    for _ in range(14):
        world.finish_sample(0, Outcome.WRONG)
    world.commit(0)
    world.report(0)
    world.tick()
    assert len(world.replicas) == 1


def test_a_leaving_replica_finishes_what_it_began_and_is_stopped_then() -> None:
    world = World([(0, Fixed(samples=2), 8)], replicas=(1, 1), capacity=4)
    world.tick()
    up(world, 0)
    world.finish_sample(0, Outcome.WRONG)
    world.draining.add("node-0")
    world.tick()
    assert len(world.replicas[0].problems) == 1
    world.report(0)
    assert 0 in world.replicas
    world.finish_sample(0, Outcome.WRONG)
    world.report(0)
    assert 0 in world.replicas, "what it finished is not committed yet"
    world.commit(0)
    world.report(0)
    assert 0 not in world.replicas


def test_leases_get_smaller_towards_the_end() -> None:
    world = World([(0, Fixed(samples=1), 40)], replicas=(2, 2), capacity=16, room=2)
    world.tick()
    up(world, 0)
    sizes = Counter(lease for lease, _ in world.replicas[0].problems)
    assert max(sizes.values()) == 8
    up(world, 1, "node-1")
    sizes = Counter(lease for lease, _ in world.replicas[1].problems)
    assert max(sizes.values()) == 1


def test_late_messages_change_nothing() -> None:
    world = World([(0, Fixed(samples=1), 4)])
    world.tick()
    world.place(0, "node-0")
    world.die(0)
    before = len(world.scheduler._replicas)
    assert world.scheduler.step(ReplicaUp(0, 4)) == []
    assert len(world.scheduler._replicas) == before


def test_a_problem_under_suspicion_is_alone_on_its_replica() -> None:
    world = World([(0, Fixed(samples=2), 3)], replicas=(1, 1), capacity=8)
    world.poisonous = {(0, 1, 0)}
    isolations = []
    while not world.scheduler.is_finished:
        world.start_all()
        isolations += [
            sampled.isolation for replica in world.replicas.values() for sampled in replica.problems.values()
        ]
        world.work_all(Outcome.WRONG)
    assert {Isolation.PROBLEM, Isolation.SAMPLE} <= set(isolations)
    assert list(world.errors) == [(0, 1)]


def test_the_forecast_of_a_fixed_policy_is_exact() -> None:
    world = World([(0, Fixed(samples=3), 10)])
    world.tick()
    up(world, 0)
    assert world.scheduler.remaining() == 30
    world.finish_sample(0, Outcome.CORRECT)
    world.commit(0)
    world.report(0)
    assert world.scheduler.remaining() == 29


def test_an_action_for_many_replicas_names_each_once() -> None:
    world = World([(0, Fixed(samples=1), 64)], replicas=(4, 4), capacity=32, room=4)
    world.tick()
    up(world, 0)
    for number in (1, 2, 3):
        actions = world.scheduler.step(ReplicaUp(number, 32))
        assert len([action for action in actions if isinstance(action, Release)]) <= 1


def test_a_replica_that_fails_gets_nothing_that_its_death_would_be_blamed_on() -> None:
    world = World([(0, Fixed(samples=1), 3)], replicas=(1, 1), capacity=1)
    world.tick()
    up(world, 0)
    for _ in range(2):
        world.finish_sample(0, Outcome.WRONG)
    world.commit(0)
    world.report(0, is_failing=True)
    assert not world.replicas[0].problems
    world.die(0)
    assert not world.works[0].states.deaths.any()


def test_all_groups_start_at_once_where_there_is_room() -> None:
    jobs = [(group, Fixed(samples=1), 4) for group in range(3)]
    world = World(jobs, groups=3, replicas=(1, 2), room=2)
    world.tick()
    assert [replica.group for replica in world.replicas.values()] == [0, 1]
