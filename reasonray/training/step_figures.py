"""The figures of a step that do not come from its gradient: speed, utilisation, memory, accuracy and entropy."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from reasonray.training.device import peak_memory
from reasonray.training.plan import Step
from reasonray.training.sizes import Sizes


def step_figures(
    step: Step,
    sums: Sequence[float],
    seconds: float,
    *,
    sizes: Sizes,
    adapters: bool,
    sampled: bool,
    product_rate: float | None,
    device: torch.device,
) -> dict[str, float]:
    """Return a step's figures by name.

    tokens, tokens_per_second and seconds; token_accuracy: share of target tokens that have the largest logit; entropy:
    in nats, of a sample of them; mfu: share of the product rate, where that is known, that the model's own operations
    took, without those that are done again; peak_gb: most memory that this worker has held so far. With policy
    gradients also the target tokens' mean ratio of probabilities, now to when they were sampled, clip_fraction: share
    of them whose ratio is beyond its bound, and mean advantage.

    Args:
        step: of the plan.
        sums: of `TokenSums`, over all workers.
        seconds: that the step took.
        sizes: of the student.
        adapters: whether the weights themselves get no gradient.
        sampled: whether the objective is that of policy gradients.
        product_rate: operations per second of all workers' devices; None if unknown.
        device: of this worker.
    """
    target_tokens, likeliest, measured, entropy, *of_policy = sums
    lengths = [length for pack in step.lengths for length in pack]
    operations = sizes.operations(lengths, target_tokens, frozen=adapters)
    speed = {"tokens": step.tokens, "tokens_per_second": step.tokens / seconds, "seconds": seconds}
    if target_tokens:
        speed |= {"token_accuracy": likeliest / target_tokens, "entropy": entropy / measured}
    if target_tokens and sampled:
        names = ("ratio", "clip_fraction", "advantage")
        speed |= {name: value / target_tokens for name, value in zip(names, of_policy, strict=True)}
    if product_rate is not None:
        speed["mfu"] = operations / seconds / product_rate
    return speed | {"peak_gb": peak_memory(device) / 1e9}
