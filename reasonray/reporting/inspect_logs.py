"""Rollouts of a model under evaluation as a log of inspect_ai (its `EvalLog`, version 2), for its viewer and analyses.

A problem is a sample of inspect, a rollout one of its epochs. An outcome that is not about the model (the gold answer
cannot be judged, the engine failed) is no score there: the sample then has none. The accuracy in the header is that of
the report, which counts such rollouts as not correct. Pure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from reasonray.config import PromptedModel
from reasonray.prompts import messages
from reasonray.records import UNJUDGED, Finish, Outcome, Rollout

_STOP_REASONS = {Finish.STOP: "stop", Finish.LENGTH: "max_tokens", Finish.ERROR: "unknown"}
_VALUES = {Outcome.CORRECT: "C", Outcome.NO_ANSWER: "N"}
"""In inspect's letters; another outcome about the model is "I", incorrect."""
_SCORER = "reasonray"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogHeader:
    """What a log states before its samples."""

    run: str
    arm: str
    model: str
    prompted: PromptedModel
    """How the model was asked."""
    created: datetime
    """When the first rollouts were committed, with a time zone."""
    problems: int
    samples: int
    """Rollouts of each problem."""
    outcomes: Counter[str]
    """Rollouts by outcome."""
    prompt_tokens: int
    completion_tokens: int
    is_whole: bool
    """Whether no rollout is missing."""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def rollouts(self) -> int:
        """Rollouts in the log."""
        return self.outcomes.total()


def inspect_log(header: LogHeader, rollouts: Iterable[Rollout]) -> Iterator[str]:
    """Yield the text of a log, a rollout at a time.

    Args:
        header: of the log.
        rollouts: of the arm.
    """
    yield json.dumps(_header(header), indent=1)[:-2]
    yield ',\n "samples": ['
    separator = "\n"
    for rollout in rollouts:
        yield separator + json.dumps(inspect_sample(rollout, header.prompted), ensure_ascii=False, allow_nan=False)
        separator = ",\n"
    yield "\n ]\n}\n"


def inspect_sample(rollout: Rollout, prompted: PromptedModel) -> dict[str, Any]:
    """Return one rollout as an `EvalSample`."""
    problem = rollout.problem
    prompt = prompted.asking.prompt(problem.source, rollout.sample)
    asked = [dict(turn) for turn in messages(prompt, problem.question)]
    answer = {"role": "assistant", "content": rollout.answer, "model": rollout.model}
    usage = _usage(rollout.prompt_tokens, rollout.completion_tokens)
    facts = {
        "outcome": rollout.verdict.outcome.value,
        "checker": rollout.verdict.checker,
        "source": problem.source,
        "difficulty": problem.difficulty,
        "seed": rollout.seed,
        "fingerprint": rollout.fingerprint,
        "tokens_estimated": rollout.tokens_estimated,
    }
    failed = rollout.finish is Finish.ERROR
    reason = rollout.verdict.detail or "the engine gave no completion"
    limit = {"type": "token", "limit": float(prompted.sampling.max_tokens)}
    return {
        "id": problem.id,
        "epoch": rollout.sample + 1,
        "input": asked,
        "target": problem.answer or "",
        "messages": [*asked, *([] if failed else [answer])],
        "output": {
            "model": rollout.model,
            "choices": [] if failed else [{"message": answer, "stop_reason": _STOP_REASONS[rollout.finish]}],
            "completion": rollout.answer,
            "usage": usage,
            **({"error": reason} if failed else {}),
        },
        "scores": _scores(rollout),
        "metadata": facts,
        "model_usage": {rollout.model: usage},
        "uuid": rollout.id,
        **({"error": {"message": reason, "traceback": "", "traceback_ansi": ""}} if failed else {}),
        **({"limit": limit} if rollout.finish is Finish.LENGTH else {}),
    }


def _scores(rollout: Rollout) -> dict[str, Any]:
    verdict = rollout.verdict
    if verdict.outcome in UNJUDGED:
        return {}
    value = _VALUES.get(verdict.outcome, "I")
    return {_SCORER: {"value": value, "answer": verdict.extracted, "explanation": verdict.detail or None}}


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    total = prompt_tokens + completion_tokens
    return {"input_tokens": prompt_tokens, "output_tokens": completion_tokens, "total_tokens": total}


def _header(header: LogHeader) -> dict[str, Any]:
    created, sampling = header.created.isoformat(timespec="seconds"), header.prompted.sampling
    dataset = {"name": header.run, "samples": header.problems, "shuffled": False}
    return {
        "version": 2,
        "status": "success" if header.is_whole else "cancelled",
        "eval": {
            "run_id": header.run,
            "created": created,
            "task": task_name(header.run, header.arm),
            "task_id": header.arm,
            "dataset": dataset,
            "model": header.model,
            "model_generate_config": _generate_config(sampling.model_dump(mode="json")),
            "config": {"epochs": header.samples, "epochs_reducer": ["mean"]},
            "packages": dict(header.versions),
            "metadata": {"run": header.run, "arm": header.arm},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": _results(header),
        "stats": {
            "started_at": created,
            "completed_at": created,
            "model_usage": {header.model: _usage(header.prompt_tokens, header.completion_tokens)},
        },
    }


def _results(header: LogHeader) -> dict[str, Any]:
    correct, unjudged = header.outcomes[Outcome.CORRECT.value], sum(header.outcomes[name.value] for name in UNJUDGED)
    metrics = {"accuracy": {"name": "accuracy", "value": correct / max(1, header.rollouts)}}
    score = {
        "name": _SCORER,
        "scorer": _SCORER,
        "reducer": "mean",
        "scored_samples": header.rollouts - unjudged,
        "unscored_samples": unjudged,
        "metrics": metrics,
    }
    return {
        "total_samples": header.problems * header.samples,
        "completed_samples": header.rollouts,
        "scores": [score],
    }


def _generate_config(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling parameters that inspect has a name for."""
    names = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty")
    stop: Sequence[str] = sampling["stop"]
    top_k = {"top_k": sampling["top_k"]} if sampling["top_k"] > 0 else {}
    return {name: sampling[name] for name in names} | ({"stop_seqs": list(stop)} if stop else {}) | top_k


def task_name(run: str, arm: str) -> str:
    """Return the name of an arm's task; inspect splits names of files at underscores."""
    return f"{run}-{arm}".replace("_", "-")


def log_name(header: LogHeader, identity: str) -> str:
    """Return the name of a log's file, in the form by which inspect finds logs.

    Args:
        header: of the log.
        identity: changes with its rollouts.
    """
    return f"{header.created:%Y-%m-%dT%H-%M-%S}+00-00_{task_name(header.run, header.arm)}_{identity}.json"
