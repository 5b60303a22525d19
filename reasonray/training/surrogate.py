"""The clipped objective of policy gradients, token by token (PPO, Schulman et al. 2017, arXiv 1707.06347).

A token's ratio is its probability now, divided by the probability with which it was sampled. The objective is the
ratio times the advantage, as long as the ratio is within bounds: a token that has become likelier or less likely than
they allow, in the direction of its advantage, has no gradient any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch

from reasonray.config import Training

_LARGEST_LOG = 20.0
"""Logarithm of the largest ratio, so that its exponential stays finite."""


@dataclass(frozen=True)
class Clipping:
    """The bounds of the ratio, and what a divergence from the sampler costs."""

    low: float = 0.2
    """The ratio is at least 1 - low where the advantage is negative."""
    high: float = 0.2
    """The ratio is at most 1 + high where the advantage is positive."""
    kl: float = 0.0
    """Coefficient of the divergence from the sampler."""

    @classmethod
    def of(cls, training: Training) -> Self:
        """Return the clipping that a training is configured with."""
        low, high = training.ratio_clip
        return cls(low, high, training.kl)


@dataclass(frozen=True)
class TokenLosses:
    """The losses of tokens under the objective; each tensor is of shape (tokens, 1)."""

    losses: torch.Tensor
    """To be minimised: the negated objective, and the divergence times its coefficient."""
    slopes: torch.Tensor
    """Derivatives of the losses with respect to the tokens' cross-entropies."""
    ratios: torch.Tensor
    is_clipped: torch.Tensor
    """Whether the ratio is beyond the bound that holds for it."""


@dataclass(frozen=True)
class Surrogate:
    """The objective of target tokens that were sampled with known probabilities."""

    logprobs: torch.Tensor
    """Of the tokens when they were sampled, (tokens,), fp32."""
    clipping: Clipping

    def part(self, start: int, count: int) -> Surrogate:
        """Return the objective of some of the tokens."""
        return Surrogate(self.logprobs[start : start + count], self.clipping)

    def losses(self, cross_entropies: torch.Tensor, advantages: torch.Tensor) -> TokenLosses:
        """Return the tokens' losses.

        The divergence is estimated by k3 = 1/ratio - 1 + log ratio, which is never negative and right in the mean
        (Schulman 2020, http://joschu.net/blog/kl-approx.html).

        Args:
            cross_entropies: negated log-probabilities of the tokens now, (tokens, 1).
            advantages: of the tokens, (tokens, 1).
        """
        logs = (-cross_entropies - self.logprobs[:, None]).clamp(-_LARGEST_LOG, _LARGEST_LOG)
        ratios = logs.exp()
        plain = ratios * advantages
        bounded = ratios.clamp(1 - self.clipping.low, 1 + self.clipping.high) * advantages
        is_clipped = bounded < plain
        losses, slopes = -torch.minimum(plain, bounded), torch.where(is_clipped, 0.0, plain)
        if self.clipping.kl:
            inverse = (-logs).exp()
            losses = losses + self.clipping.kl * (inverse - 1 + logs)
            slopes = slopes + self.clipping.kl * (inverse - 1)
        return TokenLosses(losses, slopes, ratios, is_clipped)
