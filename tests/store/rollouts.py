"""Random rollouts of a few problems, and their stored samples: counted one by one, and as a ledger counts them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from hypothesis import strategies as st

from reasonray.records import Finish, Outcome, Rollout
from reasonray.store.ledger import Ledger
from reasonray.store.sample_arrays import SampleArrays
from tests.factories import a_problem, a_rollout

ROLLOUTS = st.builds(
    lambda problem, fingerprint, sample, outcome, finish, **rest: a_rollout(
        "text",
        outcome,
        sample=sample,
        problem=a_problem(problem),
        id=Rollout.identify(a_problem(problem).id, fingerprint, sample),
        fingerprint=fingerprint,
        finish=finish,
        **rest,
    ),
    st.sampled_from(["1 + 1?", "2 + 2?", "3 + 3?"]),
    st.sampled_from(["f", "g"]),
    st.integers(0, 3) | st.integers(2**31 - 2, 2**31 - 1),
    st.sampled_from(Outcome),
    st.sampled_from(Finish),
    resample=st.integers(0, 2),
    completion_tokens=st.integers(0, 2**31 - 1),
)


@dataclass(frozen=True)
class StoredSamples:
    """The committed samples of one problem under one fingerprint; only the newest resample of each counts."""

    samples: frozenset[int] = frozenset()
    correct: int = 0
    truncated: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    """Sample → (resample, completion tokens), for each that ended at the token limit."""
    judged: int = 0


def stored_samples(ledger: Ledger) -> dict[tuple[str, str], StoredSamples]:
    """Return what a ledger counts, by problem id and fingerprint."""
    problems = sorted(set(ledger.read(["problem_id"])["problem_id"].to_pylist()))
    return as_stored_samples(ledger.sample_arrays(problems), problems)


def as_stored_samples(
    arrays: Mapping[str, SampleArrays], problems: Sequence[str]
) -> dict[tuple[str, str], StoredSamples]:
    return {
        (problem, fingerprint): StoredSamples(
            frozenset(counted.samples(index)),
            int(counted.num_correct[index]),
            {row["sample"]: (row["resample"], row["tokens"]) for row in counted.truncated_of(index)},
            int(counted.num_judged[index]),
        )
        for fingerprint, counted in arrays.items()
        for index, problem in enumerate(problems)
        if counted.num_finished[index]
    }


def counted_one_by_one(segments: list[list[Rollout]]) -> dict[tuple[str, str], StoredSamples]:
    newest: dict[str, Rollout] = {}
    for rollout in chain(*segments):
        if rollout.id not in newest or rollout.resample > newest[rollout.id].resample:
            newest[rollout.id] = rollout
    groups: dict[tuple[str, str], list[Rollout]] = {}
    for rollout in newest.values():
        groups.setdefault((rollout.problem.id, rollout.fingerprint), []).append(rollout)
    judged = {Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED}
    return {
        key: StoredSamples(
            frozenset(rollout.sample for rollout in group),
            sum(rollout.verdict.outcome is Outcome.CORRECT for rollout in group),
            {
                rollout.sample: (rollout.resample, rollout.completion_tokens)
                for rollout in group
                if rollout.finish is Finish.LENGTH
            },
            sum(rollout.verdict.outcome in judged for rollout in group),
        )
        for key, group in groups.items()
    }
