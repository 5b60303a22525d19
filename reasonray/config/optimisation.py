"""The optimiser of a training, its learning rate, the size of its steps, and how long it runs."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from reasonray.config.section import Section, Share

Beta = Annotated[float, Field(ge=0, lt=1)]
"""Share of a moment that is kept from one step to the next."""


class StepSize(Section):
    """Size of a training step, in exactly one of two units."""

    packs: PositiveInt | None = None
    """Packs of `training.max_tokens` tokens: a multiple of the GPUs keeps all of them busy."""
    tokens: PositiveInt | None = None
    """Tokens, rounded to whole packs, so that a step stays as large when `training.max_tokens` changes."""

    @model_validator(mode="after")
    def _is_in_one_unit(self) -> Self:
        if (self.packs is None) == (self.tokens is None):
            raise ValueError("give the size of a step in packs or in tokens: { packs = 64 } or { tokens = 1_000_000 }")
        return self

    def in_packs(self, pack_tokens: float) -> int:
        """Return the packs of a step.

        Args:
            pack_tokens: of a full pack.
        """
        return self.packs or max(1, round((self.tokens or 0) / pack_tokens))


class Optimisation(Section):
    """How the weights are updated; a part of `training`."""

    objective: Literal["sft", "policy_gradient"] = "sft"
    """sft: the selected examples become likelier. policy_gradient: of all judged samples of a problem, those that are
    better than its others become likelier and the worse ones less likely, wrong ones too, by PPO's clipped objective
    against the log-probabilities with which they were sampled (`sampling.logprobs`). Curation's rules apply, its quotas
    do not; what `incorrect`, `no_answer`, `false_arithmetic` or `leaked_answer` would drop has no reward instead."""
    advantage: Literal["rloo", "dr_grpo"] = "rloo"
    """Advantage of a sample, from a reward of 1 if it is correct and else 0. rloo: less the mean of the problem's other
    samples (Ahmadian et al. 2024). dr_grpo: less the mean of all its samples, not divided by their deviation (Liu et
    al. 2025). They differ where problems have different numbers of samples."""
    ratio_clip: tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0)]] = (0.2, 0.2)
    """How far a token's probability may fall below that of sampling, and rise above it, as shares of it; beyond, the
    token has no gradient."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of the divergence from the sampler (k3, Schulman 2020), for each token next to its advantage. Where
    the student taught itself, the sampler is the student before training."""
    max_steps: PositiveInt | None = None
    """Most steps, whatever `epochs` would take; the learning rate's schedule ends there. By default all epochs."""
    optimiser: Literal["adamw", "muon"] = "adamw"
    """adamw, or muon: matrices by Muon (Jordan et al. 2024), embeddings, output layer, experts' stacked matrices and
    vectors by AdamW. Muon's updates are scaled to the size of AdamW's (Liu et al. 2025), so that the same learning rate
    serves both. It keeps one moment of a matrix, not two."""
    moments: Literal["fp32", "bf16"] = "fp32"
    """Precision of the optimiser's moments. bf16 takes 2 bytes of each instead of 4, so that AdamW's state is 12 bytes
    a weight and not 16, gradient included. They are rounded stochastically, because rounding to nearest would keep the
    second moment from ever falling."""
    learning_rate: float = Field(1e-5, gt=0)
    """Peak learning rate."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the learning rate after the warmup."""
    warmup: Share = 0.03
    """Share of the steps in which the learning rate rises to its peak."""
    floor: Share = 0.1
    """Learning rate at the end of the schedule, as a share of the peak."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """Shares of AdamW's first and second moment that are kept from one step to the next."""
    eps: float = Field(1e-8, gt=0)
    """AdamW's addend to the root of the second moment."""
    momentum: Beta = 0.95
    """Share of Muon's moment that is kept from one step to the next."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay of matrices."""
    clip: float = Field(1.0, gt=0)
    """Norm to which gradients are clipped."""
