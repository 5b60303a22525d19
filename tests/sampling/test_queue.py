"""The queue of unfinished problems; no Ray."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reasonray.sampling.queue import ProblemQueue

EASY, MEDIUM, HARD = range(3)


def a_queue(*difficulties: int, samples: int = 4, job: int = 0) -> ProblemQueue:
    queue = ProblemQueue(lambda job, index: samples)
    queue.fill(job, np.array(difficulties, np.int32), np.full(len(difficulties), samples, np.int32))
    return queue


def test_problems_with_the_longest_expected_rollouts_go_first() -> None:
    queue = a_queue(EASY, HARD, MEDIUM)
    for difficulty, tokens in ((EASY, 50), (MEDIUM, 200), (HARD, 900)):
        queue.learn(0, difficulty, tokens)
    assert [queue.pop(1) for _ in range(3)] == [(0, [1]), (0, [2]), (0, [0])]


def test_a_difficulty_without_statistics_goes_before_all_others() -> None:
    queue = a_queue(EASY, HARD)
    queue.learn(0, EASY, 50)
    assert queue.pop(1) == (0, [1])


def test_returned_problems_go_before_new_ones() -> None:
    queue = a_queue(EASY, EASY)
    assert queue.pop(1) == (0, [0])
    queue.put_back(0, EASY, 0)
    assert queue.pop(100) == (0, [0, 1])


def test_problems_that_need_no_samples_are_not_queued() -> None:
    queue = ProblemQueue(lambda job, index: 2)
    queue.fill(0, np.zeros(4, np.int32), np.array([0, 2, 0, 2], np.int32))
    assert (len(queue), queue.first_wave) == (2, 4)
    assert queue.pop(100) == (0, [1, 3])


@given(st.lists(st.lists(st.integers(0, 2), max_size=20), min_size=1, max_size=3), st.integers(1, 30), st.data())
def test_every_problem_is_popped_once_and_a_group_has_one_job(
    jobs: list[list[int]], samples: int, data: st.DataObject
) -> None:
    queue = ProblemQueue(lambda job, index: 4)
    for job, difficulties in enumerate(jobs):
        queue.fill(job, np.array(difficulties, np.int32), np.full(len(difficulties), 4, np.int32))
    popped: list[tuple[int, int]] = []
    while queue:
        job, indices = queue.pop(samples)
        assert 1 <= len(indices) <= max(1, -(-samples // 4))
        if data.draw(st.booleans()):
            queue.put_back(job, jobs[job][indices[-1]], indices.pop())
        popped += [(job, index) for index in indices]
    assert sorted(popped) == [
        (job, index) for job, difficulties in enumerate(jobs) for index in range(len(difficulties))
    ]
    assert queue.first_wave == 0
