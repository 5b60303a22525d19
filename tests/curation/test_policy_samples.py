"""Samples for policy gradients: the judged rollouts of problems that could have gone either way, with advantages."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.config import ConfigError, Curation, Prompt, UserError
from reasonray.curation.behaviours import annotate_table
from reasonray.curation.derived import POLICY, set_manifest, write_sets
from reasonray.curation.measures import measure_table
from reasonray.curation.policy_samples import POLICY_SCHEMA, advantages, policy_samples
from reasonray.prompts import messages
from reasonray.records import Annotation, Finish, Outcome, Rollout
from reasonray.store.run import Run
from reasonray.store.schema import rollouts_to_table
from reasonray.training.data_set import data_set
from tests.curation.test_derived import here
from tests.factories import a_minimal_config, a_problem, a_rollout, a_run_with, a_scripted_config

CURATION = Curation()
PROMPT = Prompt(template="{question} Think.")
CURATED = {"inputs": "first", "rollouts": ["a.parquet", "b.parquet"], "data": ["a.parquet"], "selected": 1}
GROUPS = st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=30)


def sampled(sample: int, outcome: Outcome = Outcome.WRONG, text: str = "six", **changes: Any) -> Rollout:
    noted = Annotation(dropped_by="" if outcome is Outcome.CORRECT else "incorrect", pass_rate=0.5)
    known = {"token_ids": (5, 6, 7), "logprobs": (-0.5, -1.0, 0.0), "completion_tokens": 30, "annotation": noted}
    completion = changes.pop("completion", f"<think> It is {text}. </think> 42")
    return a_rollout(completion, outcome, sample=sample, **(known | changes))


def curated(*rollouts: Rollout) -> pa.Table:
    return measure_table(annotate_table(rollouts_to_table(rollouts)), CURATION.repetition_ngram)


def advantage_of(*rollouts: Rollout, curation: Curation = CURATION, normalisation: Any = "rloo") -> dict[str, float]:
    rows = policy_samples(curated(*rollouts), PROMPT, curation, normalisation)
    assert rows.schema == POLICY_SCHEMA
    return dict(zip(rows["id"].to_pylist(), rows["advantage"].to_pylist(), strict=True))


@given(GROUPS)
def test_advantages_are_rewards_less_the_mean_of_the_others_or_of_all(samples: list[tuple[int, bool]]) -> None:
    groups, rewards = (np.array(column) for column in zip(*samples, strict=True))
    by_others, by_all = (advantages(rewards.astype(float), groups, kind) for kind in ("rloo", "dr_grpo"))
    for row, (group, reward) in enumerate(samples):
        members = [other for number, (same, other) in enumerate(samples) if same == group and number != row]
        assert by_others[row] == pytest.approx(reward - np.mean(members) if members else 0, abs=1e-12)
        assert by_all[row] == pytest.approx(reward - np.mean([*members, reward]), abs=1e-12)
    for found in (by_others, by_all):
        for group in set(groups):
            assert found[groups == group].sum() == pytest.approx(0, abs=1e-12)
            assert found[groups == group].any() == (len(set(rewards[groups == group])) > 1)


def test_wrong_samples_are_there_with_the_prompt_and_tokens_of_sampling() -> None:
    right, wrong, silent = sampled(0, Outcome.CORRECT), sampled(1), sampled(2, Outcome.NO_ANSWER)
    assert advantage_of(right, wrong, silent) == pytest.approx({right.id: 1, wrong.id: -0.5, silent.id: -0.5})
    by_all = advantage_of(right, wrong, silent, normalisation="dr_grpo")
    assert by_all == pytest.approx({right.id: 2 / 3, wrong.id: -1 / 3, silent.id: -1 / 3})
    (row,) = (row for row in policy_samples(curated(right, wrong), PROMPT, CURATION, "rloo").to_pylist()
              if row["id"] == wrong.id)  # fmt: skip
    assert row["prompt"] == messages(PROMPT, wrong.problem.question)
    assert (row["completion_text"], row["token_ids"]) == (wrong.completion, [5, 6, 7])
    assert (row["logprobs"], row["outcome"]) == ([-0.5, -1.0, 0.0], "wrong")


@pytest.mark.parametrize(
    "unfit",
    [
        sampled(1, token_ids=None, logprobs=None),
        sampled(1, logprobs=None),
        sampled(1, Outcome.TIMEOUT),
        sampled(1, Outcome.FAILED, finish=Finish.ERROR),
        sampled(1, completion="No tags. 41."),
        sampled(1, completion_tokens=3),
        sampled(1, Outcome.TRUNCATED, finish=Finish.LENGTH),
    ],
    ids=["no tokens", "no log-probabilities", "timeout", "failed", "no reasoning", "too short", "truncated"],
)
def test_a_sample_that_is_not_judged_or_that_another_rule_drops_is_left_out(unfit: Rollout) -> None:
    right, wrong = sampled(0, Outcome.CORRECT), sampled(2)
    assert advantage_of(right, wrong, unfit) == {right.id: 1, wrong.id: -1}
    assert advantage_of(right, unfit) == {}, "a group that could not have gone either way has no advantage"


def test_a_rule_that_is_not_configured_drops_nothing() -> None:
    right, cut = sampled(0, Outcome.CORRECT), sampled(1, Outcome.TRUNCATED, finish=Finish.LENGTH)
    assert advantage_of(right, cut, curation=Curation(rules=("failed",))) == {right.id: 1, cut.id: -1}


@pytest.mark.parametrize("rule", ["false_arithmetic", "leaked_answer"])
def test_reasoning_that_a_rule_forbids_has_no_reward_and_is_made_less_likely(rule: str) -> None:
    texts = {"false_arithmetic": "80 - 5 = 76", "leaked_answer": "what the given answer says"}
    right, odd = sampled(0, Outcome.CORRECT), sampled(1, Outcome.CORRECT, texts[rule])
    wrong = sampled(2, text=texts[rule])
    configured = Curation(rules=(*CURATION.rules, rule))
    assert advantage_of(right, odd, wrong, curation=configured) == {right.id: 1, odd.id: -0.5, wrong.id: -0.5}
    assert advantage_of(right, odd, wrong) == {right.id: 0.5, odd.id: 0.5, wrong.id: -1}, "without the rule"


def test_samplers_are_groups_of_their_own_and_equal_texts_count_as_often_as_sampled() -> None:
    other = [sampled(number, fingerprint="other", id=f"other{number}") for number in range(2)]
    same = [sampled(0, Outcome.CORRECT), *(sampled(number) for number in range(1, 4))]
    assert advantage_of(*same, *other) == pytest.approx({same[0].id: 1} | {rollout.id: -1 / 3 for rollout in same[1:]})


PROBLEMS = {name: a_problem(f"{name}?") for name in ("both", "solved", "unsolved", "leaked", "easy")}
OUTCOMES = {"both": "cww", "solved": "cc", "unsolved": "ww", "leaked": "cw", "easy": "cccw"}


def a_curated_run(root: Path, split: int = 2, **training: Any) -> Run:
    rollouts = [
        sampled(
            sample,
            Outcome.CORRECT if kind == "c" else Outcome.WRONG,
            problem=PROBLEMS[name],
            text=f"{name} {sample}",
            annotation=Annotation(pass_rate=kinds.count("c") / len(kinds)),
        )
        for name, kinds in OUTCOMES.items()
        for sample, kind in enumerate(kinds)
    ]
    config = a_scripted_config(
        root, training=training, curation={"rules": ["incorrect", "pass_rate"], "max_pass_rate": 0.7}
    )
    config = config.model_copy(update={"training": config.training.model_copy(update={"objective": POLICY})})
    run = a_run_with(config, rollouts)
    for number, name in enumerate(CURATED["rollouts"][:split]):
        (run.curated / "rollouts" / name).write_table(curated(*rollouts[number::split]))
    return run


def test_every_problem_has_one_fate_and_training_reads_the_samples(tmp_path: Path) -> None:
    run = a_curated_run(tmp_path)
    (run.curated / "manifest.json").write(b'{"data": ["a.parquet"], "selected": 1}')
    with pytest.raises(UserError, match="no samples for policy gradients yet"):
        data_set(run)
    (line,) = write_sets(run, CURATED, {PROBLEMS["leaked"].id}, here)
    fate = {"used": 1, "always solved": 1, "never solved": 1, "contaminated": 1, "pass rate": 1}
    assert set_manifest(run, POLICY)["problems"] == fate
    assert "3 rows of policy_gradient" in line
    data = data_set(run)
    assert data.rows == 3
    assert sorted(row["outcome"] for file in data.files for row in file.read_table().to_pylist()) == [
        "correct", "wrong", "wrong",
    ]  # fmt: skip
    assert write_sets(run, CURATED, {PROBLEMS["leaked"].id}, here) == [], "made once"


def test_what_is_learned_decides_the_hash_of_the_samples_and_not_the_files(tmp_path: Path) -> None:
    hashes = []
    for name, split, normalisation in (("a", 2, "rloo"), ("b", 1, "rloo"), ("c", 2, "dr_grpo")):
        run = a_curated_run(tmp_path / name, split)
        training = run.config.training.model_copy(update={"advantage": normalisation})
        run = Run(run.place, run.config.model_copy(update={"training": training}))
        write_sets(run, CURATED | {"rollouts": CURATED["rollouts"][:split]}, (), here)
        hashes.append(set_manifest(run, POLICY)["content"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_run_without_any_contrast_says_what_became_of_its_problems(tmp_path: Path) -> None:
    run = a_curated_run(tmp_path)
    (run.curated / "manifest.json").write(b'{"data": ["a.parquet"], "selected": 1}')
    write_sets(run, CURATED, {problem.id for problem in PROBLEMS.values()}, here)
    with pytest.raises(UserError, match=r"no problem has a correct and a wrong sample .*\(5 contaminated\)"):
        data_set(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "log-probabilities of teachers.0; set its sampling.logprobs = true"),
        ({"engine": {"kind": "endpoint", "base_url": "http://x/v1"}}, "a server gives no tokens"),
        (
            {"curation": {"loss_weight": "inverse_pass_rate"}, "sampling": {"logprobs": True}},
            "loss_weight does nothing",
        ),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_sampling(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    teacher = {"model": "m", "engine": {"kind": "scripted"}} | {
        key: value for key, value in changes.items() if key in ("engine", "sampling")
    }
    with pytest.raises(ConfigError, match=message):
        a_minimal_config(
            tmp_path,
            teachers=[teacher],
            training={"objective": "policy_gradient"},
            curation=changes.get("curation", {}),
        )


@pytest.mark.parametrize("knob", [{"advantage": "dr_grpo"}, {"ratio_clip": [0.1, 0.1]}, {"kl": 0.1}])
def test_a_knob_of_policy_gradients_is_refused_where_it_does_nothing(tmp_path: Path, knob: dict[str, Any]) -> None:
    (name,) = knob
    with pytest.raises(ConfigError, match=f"{name} does nothing with objective"):
        a_minimal_config(tmp_path, training=knob)
