"""Samples for policy gradients: the judged rollouts of a problem, correct and wrong, with their advantages. Pure.

A group is the rollouts of one problem by one sampler (one fingerprint). A sample's reward is 1 if it is correct and no
rule on its reasoning fires, else 0; the other rules on one rollout drop it, as they drop examples. Samples with the
same text count as often as they were sampled.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from reasonray.config import Curation, Prompt
from reasonray.curation.export import TURNS
from reasonray.curation.rules import first_fired
from reasonray.prompts import messages
from reasonray.records import JUDGED, Outcome

REWARDED = ("incorrect", "no_answer", "false_arithmetic", "leaked_answer")
"""Rules on the answer and on how it was reached. They do not drop a sample here: its reward is 0 instead, because what
they find is to become less likely."""

POLICY_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("id", "problem_id")),
        pa.field("prompt", TURNS, nullable=False),
        *(pa.field(name, pa.string(), nullable=False) for name in ("opening", "completion_text")),
        pa.field("token_ids", pa.large_list(pa.int32()), nullable=False),
        pa.field("logprobs", pa.large_list(pa.float16()), nullable=False),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("advantage", pa.float64(), nullable=False),
        pa.field("pass_rate", pa.float64()),
    ]
)
"""One row per sample: completion_text is what the tokens say, and `opening` what the prompt opened before it."""


def advantages(
    rewards: NDArray[np.float64], groups: NDArray[np.int64], normalisation: Literal["rloo", "dr_grpo"]
) -> NDArray[np.float64]:
    """Return the advantages of samples within their groups.

    Args:
        rewards: of each sample, (samples,).
        groups: number of each sample's group, (samples,).
        normalisation: "rloo": the reward less the mean of the others' (REINFORCE leave-one-out, Ahmadian et al. 2024,
            arXiv 2402.14740); "dr_grpo": less the mean of all (Liu et al. 2025, arXiv 2503.20783).

    Returns:
        (samples,); those of a group sum to 0, and are all 0 if its rewards are equal.
    """
    counts = np.bincount(groups)
    means = np.bincount(groups, rewards) / np.maximum(counts, 1)
    centred: NDArray[np.float64] = rewards - means[groups]
    others = np.maximum(counts - 1, 1)[groups]
    return centred * counts[groups] / others if normalisation == "rloo" else centred


def policy_samples(
    table: pa.Table, prompt: Prompt, curation: Curation, normalisation: Literal["rloo", "dr_grpo"]
) -> pa.Table:
    """Return the samples of some problems that have an advantage.

    Args:
        table: all rollouts of the problems, of schema.ROLLOUT_SCHEMA, curated.
        prompt: the student's.
        curation: gives the rules.
        normalisation: of `advantages`.

    Returns:
        A table of POLICY_SCHEMA, by id. Groups whose samples all have the same reward are left out.
    """
    fit = table.filter(_is_fit(table, curation)).sort_by("id")
    is_correct = pc.equal(fit["verdict_outcome"], Outcome.CORRECT.value).to_numpy()
    rewards = (is_correct & _passes(fit, curation, rewarded=True)).astype(np.float64)
    samplers = list(zip(fit["problem_id"].to_pylist(), fit["fingerprint"].to_pylist(), strict=True))
    numbers = {sampler: number for number, sampler in enumerate(dict.fromkeys(samplers))}
    groups = np.array([numbers[sampler] for sampler in samplers], np.int64)
    weights = advantages(rewards, groups, normalisation)
    columns = {
        "id": fit["id"],
        "problem_id": fit["problem_id"],
        "prompt": pa.array([messages(prompt, question) for question in fit["problem_question"].to_pylist()], TURNS),
        "opening": fit["opening"],
        "completion_text": fit["completion"],
        "token_ids": fit["token_ids"],
        "logprobs": fit["logprobs"],
        "outcome": fit["verdict_outcome"],
        "advantage": pa.array(weights, pa.float64()),
        "pass_rate": fit["annotation_pass_rate"],
    }
    samples = pa.table([columns[field.name].cast(field.type) for field in POLICY_SCHEMA], schema=POLICY_SCHEMA)
    return samples.filter(pa.array(weights != 0, pa.bool_()))


def _is_fit(table: pa.Table, curation: Curation) -> pa.Array:
    """Return whether each rollout is a judged sample with its tokens that no rule on one rollout drops."""
    is_judged = pc.is_in(table["verdict_outcome"], pa.array(list(JUDGED), table["verdict_outcome"].type)).to_numpy()
    has_tokens = pc.and_(table["token_ids"].is_valid(), table["logprobs"].is_valid()).to_numpy()
    return pa.array(_passes(table, curation, rewarded=False) & is_judged & has_tokens, pa.bool_())


def _passes(table: pa.Table, curation: Curation, *, rewarded: bool) -> NDArray[np.bool_]:
    """Return whether none of the configured rules on one rollout fires, of those that are rewards or of the others."""
    rules = tuple(name for name in curation.rules if (name in REWARDED) is rewarded)
    fired = first_fired(table, curation.model_copy(update={"rules": rules})).to_numpy()
    return np.asarray(fired == len(rules), np.bool_)
