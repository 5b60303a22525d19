"""Fingerprints: who wrote a rollout, asked in which way. Pure.

A fingerprint is part of every rollout's id, so the rule by which a run makes them must not change while the run lasts.
The first rule held the model's reference, which for a student is an absolute path, and a server's address. The present
one holds neither, so that runs, students and servers may move. A run goes on by the rule of the identity that it
recorded when it first used a model.
"""

from __future__ import annotations

import json

from reasonray.config import Sampling
from reasonray.config.engines import Engine, VLLMEngine
from reasonray.config.models import Asking
from reasonray.engines import PRESENT_RULE
from reasonray.records import content_hash


def is_present_rule(identity: str) -> bool:
    """Return whether an identity was made by the present rule."""
    return identity.startswith(f"{PRESENT_RULE} ")


def fingerprint(model: str, engine: Engine, identity: str, asking: Asking, sampling: Sampling) -> str:
    """Return the fingerprint of rollouts. max_tokens, and whatever affects speed and cost only, is not part of it.

    Args:
        model: the model's reference, or its name on a server.
        engine: that runs it.
        identity: of its weights, by either rule.
        asking: prompts and temperatures of the job.
        sampling: of the job.
    """
    asked = asking.identity(), sampling.identity()
    if not is_present_rule(identity):
        return content_hash(model, identity, *asked)
    settings = json.dumps(engine.text_settings(), sort_keys=True, default=str)
    name = "" if isinstance(engine, VLLMEngine) else model  # where weights are known, it does not matter who has them
    return content_hash(identity, name, settings, *asked)
