"""Random rollouts of a few problems, and their stored samples counted one by one."""

from itertools import chain

from hypothesis import strategies as st

from reasonray.records import Finish, Outcome, Rollout
from reasonray.store.stored_samples import StoredSamples
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
            sum(rollout.completion_tokens for rollout in group),
            {
                rollout.sample: (rollout.resample, rollout.completion_tokens)
                for rollout in group
                if rollout.finish is Finish.LENGTH
            },
            sum(rollout.verdict.outcome in judged for rollout in group),
        )
        for key, group in groups.items()
    }
