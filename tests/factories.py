"""Records and configurations for tests: a plausible value for every field, each changeable by keyword."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasonray.config import Config, parse
from reasonray.records import Finish, Outcome, Problem, Rollout, Split, Verdict
from reasonray.store.run import Run, begin_or_resume


def a_problem(question: str = "What is 6 * 7?", answer: str | None = "42", **changes: Any) -> Problem:
    values: dict[str, Any] = {
        "id": Problem.identify("test", question, answer),
        "source": "test",
        "question": question,
        "answer": answer,
        "checker": "math_answer",
        "difficulty": "easy",
        "split": Split.TRAIN,
    }
    return Problem(**(values | changes))


def a_rollout(
    completion: str = "<think> Step 1: 6 * 7 = 42. </think> The answer is 42.",
    outcome: Outcome = Outcome.CORRECT,
    *,
    sample: int = 0,
    problem: Problem | None = None,
    **changes: Any,
) -> Rollout:
    problem = problem or a_problem()
    values: dict[str, Any] = {
        "id": Rollout.identify(problem.id, "fingerprint", sample),
        "problem": problem,
        "teacher": "teacher",
        "model": "scripted",
        "fingerprint": "fingerprint",
        "sample": sample,
        "seed": sample,
        "completion": completion,
        "finish": Finish.STOP,
        "prompt_tokens": 12,
        "completion_tokens": len(completion.split()),
        "verdict": Verdict(outcome=outcome, extracted="42", checker="math_answer"),
    }
    return Rollout(**(values | changes))


def a_scripted_config(root: Path, *, train: int = 40, samples: int = 6, name: str = "a-run", **changes: Any) -> Config:
    """Return the configuration of a run on the scripted engine.

    `engine` and `replicas` belong to the teacher; other keywords are sections of the configuration.
    """
    engine = {"kind": "scripted", "correct": 0.4, "endless": 0.1, "unparseable": 0.1} | changes.pop("engine", {})
    raw = {
        "name": name,
        "root": str(root),
        "sources": [{"kind": "generated", "train": train, "test": 12}],
        "teachers": [
            {"model": "scripted", "engine": engine, "gpus": 0, "cpus": 0.1, "replicas": changes.pop("replicas", 1)}
        ],
        "policy": {"kind": "fixed", "samples": samples},
        "student": {"model": "scripted", "engine": {"kind": "scripted"}, "gpus": 0, "cpus": 0.1},
        "evaluation": {"samples": 2, "k": [1, 2], "checkpoint_problems": 0},
    }
    return parse(raw | changes)


def a_minimal_config(root: Path, **changes: Any) -> Config:
    """A configuration that sets nothing but what it must, with a scripted teacher called "teacher"."""
    raw = {
        "name": "a-run",
        "root": str(root),
        "sources": [{"kind": "generated"}],
        "teachers": [{"model": "m", "engine": {"kind": "scripted"}}],
        "student": {"model": "m"},
    }
    return parse(raw | changes)


def a_run_with(config: Config, *segments: Sequence[Rollout], held_out: Problem | None = None) -> Run:
    """A run that holds the rollouts, each argument in a segment of its own; their problems are its train problems."""
    run = begin_or_resume(config)
    problems = {rollout.problem.id: rollout.problem for segment in segments for rollout in segment}
    run.store_problems([*problems.values(), held_out or a_problem("held out?", split=Split.TEST)])
    for segment in segments:
        run.ledger.append(segment)
    return run
