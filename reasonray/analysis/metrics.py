"""The records of metrics.json, from which every figure and sentence of a report is made.

`Metrics` is the whole file, and `metrics.schema.json` next to this module is its JSON schema. Null is what cannot be
known yet, or a number that is not finite.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from reasonray.analysis.comparisons import CheckpointMetrics, ProblemSetMetrics
from reasonray.analysis.funnel import Funnel
from reasonray.analysis.json_records import OMITTED_IF_NONE, from_json, json_schema, named, to_json
from reasonray.analysis.reasoning_stats import BehaviourMetrics, PassRateBand
from reasonray.analysis.scores import Difference, SamplesPoint, ScoreMetrics
from reasonray.records import Interval

SCHEMA = 2
"""Version of metrics.json. Version 1 has no key "schema", and other names for `over_quota` and `num_steps`."""
_FORMER_NAMES = {"surplus": "over_quota", "depth": "num_steps"}
_INTERVAL = {"mean", "low", "high"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceAcceptance:
    """The acceptance on one difficulty."""

    acceptance: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherMetrics:
    """The rollouts of one teacher."""

    rollouts: int
    acceptance: Interval
    tokens: int
    """Completion tokens of its rollouts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The resources that sampling used, over all its sessions."""

    generated_tokens: int
    """Generated tokens, including those of aborted requests."""
    accelerator_seconds: float
    idle_seconds: float
    """Seconds of replicas with nothing in flight."""
    replica_seconds: float
    """Seconds of all replicas."""
    deaths: int
    """Replicas that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CostMetrics(Cost):
    """The resources that sampling used, in total and for each correct rollout."""

    tokens_per_correct: float | None
    """Generated tokens, including those of aborted requests."""
    accelerator_seconds_per_correct: float | None
    idle_fraction: float | None
    """Share of the replicas' time with nothing in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingMetrics:
    """The teachers' rollouts of the train problems, and what they cost."""

    generated_tokens: int
    """Completion tokens of the rollouts."""
    seconds: float | None
    """Wall time of sampling, over all its sessions."""
    tokens_per_second: float | None
    by_difficulty: Mapping[str, SliceAcceptance]
    behaviours: BehaviourMetrics
    acceptance_rate: float | None
    """Share of rollouts that are correct."""
    problems_covered: int
    """Problems with a correct rollout."""
    acceptance: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    """`acceptance_rate` with its interval; only where there are rollouts."""
    coverage: Interval | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Share of problems with a correct rollout; only where there are rollouts."""
    by_teacher: Mapping[str, TeacherMetrics]
    cost: CostMetrics | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingMetrics:
    """The course of training."""

    steps: int
    first_loss: float | None
    last_loss: float | None
    tokens_per_second: float | None
    """Of the median step."""
    non_finite_step: int | None
    """The first step whose loss was not finite."""
    curve: tuple[Mapping[str, float], ...]
    """One row for each step: step, loss, learning_rate, gradient_norm, tokens_per_second, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share(Interval):
    """A share with its interval and its denominator."""

    count: int = field(metadata=named("of"))
    """The denominator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeControls:
    """The results of a judge on questions whose answers are known."""

    accepts_gold: Share | None
    """Share of right answers that it accepts."""
    refuses_others: Share | None
    """Share of wrong answers that it refuses."""
    trusted: bool
    """Whether the judge does better than chance; otherwise its verdicts decide nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomePair:
    """Rollouts that two checkers judged, by both outcomes; null where a checker was not asked."""

    first: str | None
    second: str | None
    rollouts: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckerAgreement:
    """The agreement of the checkers on the rollouts that several of them judged."""

    rules: tuple[OutcomePair, ...]
    """The fast path against algebra."""
    judge: tuple[OutcomePair, ...]
    """The rules against the judge."""
    missed: Share | None
    """Share of the answers refused by the rules that the judge accepts, over the audited sample."""
    let_through: Share | None
    """Share of the answers accepted by the rules that the judge refuses, over the audited sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """The result of judging stored rollouts again (stages/verify.py)."""

    judge: str | None
    """Model of the judge."""
    controls: JudgeControls | None
    agreement: CheckerAgreement


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldSuspect:
    """A problem whose samples agree with each other against the gold answer."""

    problem_id: str
    question: str
    """Its first 300 characters."""
    answer: str | None
    """The gold answer."""
    majority: str
    """The first 120 characters of the answer that most samples give."""
    votes: int
    """Samples that give it."""
    answers: int = field(metadata=named("of"))
    """Samples with an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldAudit:
    """Gold answers in doubt (checkers/consensus.py)."""

    looked_at: int
    """Problems with enough answers and no correct one."""
    suspected: int
    suspects: tuple[GoldSuspect, ...]
    """The clearest of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictMetrics:
    """The evidence of how reliable the verdicts are."""

    checkers: Mapping[str, int]
    """Rollouts by the checker whose verdict counts, the most first."""
    unsandboxed: bool
    """Whether programs and the scorers of gym tasks ran without a sandbox."""
    judge: str | None
    controls: JudgeControls | None
    agreement: CheckerAgreement | None
    gold_audit: GoldAudit


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelAgreement:
    """Cohen's kappa of the detectors and a model on one behaviour; null where chance alone would have them agree."""

    mean: float | None
    low: float | None = field(default=None, metadata=OMITTED_IF_NONE)
    high: float | None = field(default=None, metadata=OMITTED_IF_NONE)
    lexical: int
    """Rollouts in which the detectors find the behaviour."""
    model: int
    """Rollouts in which the model finds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelMetrics:
    """The agreement of a model's labels of behaviours with the detectors (stages/label.py)."""

    model: str
    asked: int
    """Rollouts that the model was asked to label."""
    labelled: int
    """Those with labels that could be read."""
    kappa: Mapping[str, LabelAgreement]
    """By behaviour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParaphraseControls:
    """The results of a judge of paraphrases on pairs of which it is known whether they are the same problem."""

    accepts_same: Share | None
    """Share of the pairs of a problem and itself, rewritten, that it calls the same."""
    refuses_others: Share | None
    """Share of the pairs of two different problems that it calls different."""
    refuses_other_numbers: Share | None = None
    """Share of the pairs of a problem and itself with another number that it calls different."""
    trusted: bool
    """Whether the judge does better than chance on all of them; otherwise its findings drop nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParaphraseMetrics:
    """How many train problems are a held-out one in other words, by a language model (stages/paraphrases.py)."""

    model: str
    items: int
    """Held-out problems, and items of benchmarks."""
    sampled: int
    """Train problems in the sample."""
    asked: int
    """Those that the model was asked about; the others resemble no item."""
    read: int
    """Those about which its reply could be read."""
    paraphrases: int
    """Those that it calls the same problem as an item."""
    share: Share | None
    """Paraphrases among the sampled problems, without those whose reply could not be read."""
    controls: ParaphraseControls


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """The seed, models, data and machines behind the figures."""

    seed: int
    models: Mapping[str, str] = field(default_factory=dict)
    """Hash of the weights by the model's reference."""
    data: str | None = None
    """Hash of the examples that were trained on."""
    machines: tuple[str, ...] = ()
    """Descriptions of the jobs' machines."""
    accelerator_hours: Mapping[str, float] = field(default_factory=dict)
    """By stage: hours of replicas and training workers, times their GPUs if they have some."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unfinished:
    """The size of an arm that is left out, because it is not measured whole."""

    samples: int
    """Rollouts that are there."""
    expected: int = field(metadata=named("of"))
    """Rollouts of the whole arm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What the rollouts of a model cost at its configured price."""

    stage: str
    """Sample or evaluate."""
    model: str
    """Name of the teacher or of the model under evaluation."""
    prompt_tokens: int
    completion_tokens: int
    amount: float
    currency: str
    per_correct: float | None
    """The amount for each correct rollout; None without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """Every number of a run's report."""

    schema: int = SCHEMA
    """Version of this document's schema."""
    funnel: Funnel
    sampling: SamplingMetrics
    training: TrainingMetrics
    evaluation: Mapping[str, Mapping[str, ScoreMetrics]]
    """By arm and slice ("all", then difficulties)."""
    difference: Mapping[str, Mapping[str, Difference]]
    """By pair of arms ("<after>-<before>", any two) and slice."""
    sets: Mapping[str, ProblemSetMetrics]
    """By source of problems; empty if there is a single source."""
    behaviours: Mapping[str, BehaviourMetrics]
    """By arm."""
    behaviour_difference: Mapping[str, Mapping[str, Interval]]
    """By pair of arms and behaviour or length, paired by problem; empty for arms that are not annotated."""
    by_pass_rate: tuple[PassRateBand, ...]
    """Train rollouts by the pass rate of their problems."""
    k_curve: tuple[SamplesPoint, ...]
    """Expected results with fewer samples; only with policy "fixed"."""
    checkpoints: tuple[CheckpointMetrics, ...]
    """By training step."""
    labels: LabelMetrics | None
    verdicts: VerdictMetrics
    stages: Mapping[str, float]
    """Seconds that each stage took."""
    provenance: Provenance
    unfinished: Mapping[str, Unfinished]
    """By arm that is left out."""
    versions: Mapping[str, str]
    """Versions of the packages that decide results."""
    config_sha256: str
    paraphrases: ParaphraseMetrics | None = field(default=None, metadata=OMITTED_IF_NONE)
    """Only if a model looked for them."""
    spent: tuple[Spent, ...] | None = field(default=None, metadata=OMITTED_IF_NONE)
    """By stage and model; only for models that have a price."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of metrics.json."""
        return dict(to_json(self))

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Metrics:
        """Return the metrics that a metrics.json of this version or an earlier one holds.

        Raises:
            ValueError: the document is of a later version, or not a metrics.json.
        """
        version = document.get("schema", 1)
        if version > SCHEMA:
            raise ValueError(f"it has schema {version}, and this version of reasonray reads up to {SCHEMA}")
        if version == 1:
            document = dict(_renamed(document)) | {"schema": SCHEMA}
        return from_json(Metrics, document)


def _renamed(value: Any) -> Any:
    """Return a document of version 1 under the names of version 2.

    Only a number or an interval is renamed. An arm, a source or a difficulty can have the same name, and is never an
    interval alone.
    """
    if isinstance(value, list):
        return [_renamed(child) for child in value]
    if not isinstance(value, dict):
        return value
    is_figure = {key: not isinstance(child, dict) or child.keys() == _INTERVAL for key, child in value.items()}
    return {_FORMER_NAMES.get(key, key) if is_figure[key] else key: _renamed(child) for key, child in value.items()}


def schema_text() -> str:
    """Return the content of metrics.schema.json, the JSON schema of metrics.json."""
    return json.dumps(json_schema(Metrics), indent=2, ensure_ascii=False) + "\n"
