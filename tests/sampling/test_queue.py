"""The order in which owed problems are begun; no Ray."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import Fixed, Prompt, Sampling, VLLMEngine
from reasonray.records import Outcome
from reasonray.sampling.queue import ProblemQueue
from reasonray.sampling.work import Arm, Counts, EngineSpec, ProblemState
from reasonray.store.ledger import Ledger
from reasonray.store.storage import place
from reasonray.store.stored_samples import StoredSamples
from tests.factories import a_problem


def an_arm(name: str = "a", samples: int = 4, **changes: object) -> Arm:
    sampling = Sampling(max_tokens=128)
    return Arm(name, "m", "f", Prompt(), sampling, Fixed(samples=samples), Ledger(place(Path("nowhere"))), 0, **changes)


def owed(question: str, difficulty: str = "easy") -> ProblemState:
    return ProblemState(a_problem(question, difficulty=difficulty))


def learnt(**tokens: int) -> Counts:
    figures = Counts()
    for difficulty, count in tokens.items():
        figures.drawn[difficulty] = 10
        figures.written[difficulty] = 10 * count
    return figures


def test_what_is_expected_to_take_longest_goes_first() -> None:
    backlog, arm = ProblemQueue(), an_arm()
    for difficulty in ("easy", "hard", "medium"):
        backlog.add(arm, owed(f"{difficulty}?", difficulty))
    backlog.learn("a", learnt(easy=50, medium=200, hard=900))
    assert [backlog.take(1)[0][1].problem.difficulty for _ in range(3)] == ["hard", "medium", "easy"]


def test_what_nothing_is_known_of_goes_before_all() -> None:
    backlog, arm = ProblemQueue(), an_arm()
    backlog.add(arm, owed("known?", "easy"))
    backlog.add(arm, owed("unknown?", "odd"))
    backlog.learn("a", learnt(easy=50))
    assert backlog.take(1)[0][1].problem.difficulty == "odd"


def test_what_came_back_goes_before_what_was_never_begun() -> None:
    backlog, arm = ProblemQueue(), an_arm()
    backlog.add(arm, owed("fresh?"))
    backlog.add(arm, owed("back?"), first=True)
    assert [it.problem.question for _, it in backlog.take(100)] == ["back?", "fresh?"]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["easy", "hard"])), max_size=40), st.integers(1, 30))
def test_every_problem_is_taken_once_and_a_group_is_of_one_arm(asked: list[tuple[str, str]], attempts: int) -> None:
    backlog, arms = ProblemQueue(), {name: an_arm(name) for name in "ab"}
    for number, (arm, difficulty) in enumerate(asked):
        backlog.add(arms[arm], owed(f"{number}?", difficulty))
    taken = []
    while group := backlog.take(attempts):
        assert len({arm.name for arm, _ in group}) == 1
        assert len(group) <= max(1, -(-attempts // 4))
        taken += [of.problem.question for _, of in group]
    assert sorted(taken) == sorted(f"{number}?" for number in range(len(asked)))
    assert len(backlog) == 0


def test_a_truncated_sample_is_owed_again_in_the_next_round_once_the_limit_is_raised() -> None:
    stored_samples = StoredSamples(frozenset({0, 1, 2}), 1, 200, {1: (0, 64), 2: (2, 90)}, judged=3)
    problem = a_problem()
    before = an_arm().problem_state(problem, stored_samples)
    assert (before.samples, before.rounds) == (frozenset({0, 1, 2}), {}), "no earlier limit is known"
    after = an_arm(cut_at=frozenset({64})).problem_state(problem, stored_samples)
    assert (after.samples, after.rounds, after.judged) == (frozenset({0, 2}), {1: 1}, 2), (
        "90 tokens: the context cut it, not the limit"
    )


def test_figures_add_up_and_can_be_taken_away() -> None:
    one, two = learnt(easy=5), learnt(easy=7, hard=9)
    one.outcomes[Outcome.CORRECT.value] = 3
    two.add(one)
    two.add(one, -1)
    assert two.drawn == {"easy": 10, "hard": 10}
    assert two.written == {"easy": 70, "hard": 90}
    assert not +two.outcomes


def test_engine_specs_with_arguments_can_be_told_apart() -> None:
    one = EngineSpec("m", None, VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0)
    other = EngineSpec("m", None, VLLMEngine(args={"block_size": 16}), 0, 1, 1.0, 0)
    assert len({one, other, one}) == 2
    assert one.serves(EngineSpec("n", "main", VLLMEngine(args={"block_size": 32}), 0, 1, 1.0, 0))
    assert not one.serves(other)
