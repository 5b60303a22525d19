"""Rollouts → verdicts, again: judge what is stored with the checkers as they are now. No solution is drawn.

A cascade: the rules (fast path, then algebra) judge every rollout; where they cannot decide or disagree, a language
model is asked, if there is one; where a problem has no gold answer, the majority can stand in for it. A sample of
rollouts is judged by all of them, whatever the first one says: it tells how far they agree, and what the rules miss.

The verdicts that rollouts were committed with stay where they are; the new ones are written beside them, with what each
checker found, and curation takes the new ones.

    <run>/verified/<name>.parquet, <run>/verified/manifest.json (written last)
    <run>/judgements/   what the judge was asked and said: a ledger like that of the rollouts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray

from reasonray.analysis.estimators import wilson
from reasonray.checkers import consensus, find_checker, judgement, math_answer, needs_no_answer
from reasonray.checkers.pool import CheckerPool
from reasonray.config import Checking, Fixed, Judge, UserError
from reasonray.prompts import split_reasoning
from reasonray.records import Finish, Outcome, Problem, Rollout, Split, Verdict, content_hash, hash_fraction
from reasonray.sampling.cluster import quiet_ray_data
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import EngineSpec, SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, row_hashes, select_columns, table_to_rollouts
from reasonray.store.storage import Place
from reasonray.store.verdicts import VERIFIED_SCHEMA

_CONTROLS = 50
"""Questions of each kind to which the answer is known."""
_UNDECIDED = (Outcome.NO_ANSWER, Outcome.UNVERIFIABLE, Outcome.TIMEOUT, Outcome.FAILED)
_RULED_SCHEMA = pa.schema([*VERIFIED_SCHEMA, pa.field("judgement", pa.string())])


class Rules:
    """Judges batches of rollouts by rules in a Ray Data actor, writes each as one file, and what a judge is asked."""

    def __init__(self, checking: Checking, target: Place) -> None:
        self._checking, self._target = checking, target
        self._pool = CheckerPool(checking)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Return one row that names the file."""
        table = select_columns(batch, ROLLOUT_SCHEMA.names).cast(ROLLOUT_SCHEMA)
        rollouts = [_under(it, self._checking.instead) for it in table_to_rollouts(table)]
        begun = [self._begin(it) for it in rollouts]  # all are under way before the first is waited for
        rows = [self._row(it, *futures) for it, futures in zip(rollouts, begun, strict=True)]
        name = f"{content_hash(*row_hashes(table).to_pylist())}.parquet"
        (self._target / name).write_table(pa.Table.from_pylist(rows, schema=_RULED_SCHEMA))
        return pa.table({"file": [name]})

    def _begin(self, rollout: Rollout) -> tuple[Future[Verdict] | None, Future[tuple[str, str]] | None]:
        """Have a rollout judged, and if it is audited by each rule alone; not what the engine failed at."""
        if rollout.finish is Finish.ERROR:
            return None, None
        asked = rollout.problem, rollout.completion, rollout.finish
        is_audited = hash_fraction(rollout.id) < self._checking.audit
        return self._pool.submit(*asked), self._pool.compare_rules(*asked) if is_audited else None

    def _row(
        self, rollout: Rollout, judged: Future[Verdict] | None, compared: Future[tuple[str, str]] | None
    ) -> dict[str, Any]:
        verdict = judged.result() if judged else rollout.verdict
        both = compared.result() if compared else ("", "")
        response = split_reasoning(rollout.completion)[1]
        has_answer = verdict.extracted or (rollout.finish is Finish.STOP and response.strip())
        can_be_asked = self._checking.judge and has_answer
        why = _why_judged(rollout.problem, verdict, both, is_audited=compared is not None) if can_be_asked else None
        asked = judgement.question(rollout.problem, verdict.extracted, response) if why else None
        return {
            "id": rollout.id,
            "resample": rollout.resample,
            "problem_id": rollout.problem.id,
            "outcome_before": rollout.verdict.outcome.value,
            **{f"verdict_{name}": value for name, value in asdict(verdict).items()},
            "rules_outcome": verdict.outcome.value,
            "fast_outcome": both[0] or None,
            "symbolic_outcome": both[1] or None,
            "judge_outcome": None,
            "judged_for": why,
            "audited": compared is not None,
            "judgement": asked,
        }


def verify(run: Run, pool: ReplicaPool | None = None, *, again: bool = True) -> dict[str, Any]:
    """Judge every committed rollout again, and return what the manifest says of it.

    Args:
        run: the run.
        pool: provides the judge's replicas, which start only if there is something to ask; None for a pool of the
            stage's own.
        again: do so even if the same rollouts were verified under the same configuration before.

    Raises:
        UserError: the run holds no rollouts, or a checker is unknown.
    """
    segments = run.ledger.segments()
    if not segments:
        raise UserError(f"run {run.name} holds no rollouts to verify; run jobs/sample.py first")
    checking = run.config.checking
    for name in checking.instead.values():
        find_checker(name)
    inputs = content_hash(str(VERIFIED_SCHEMA), checking.model_dump_json(), *(segment.name for segment in segments))
    before = (run.verified / "manifest.json").read_json_or_none()
    if before and not again and before["inputs"] == inputs:
        log_line("verify", "done before")
        return before
    scratch = run.verified / "rules"
    scratch.delete()
    quiet_ray_data()
    ruled = _by_rules(segments, checking, scratch)
    controls = None
    if checking.judge:
        ruled, controls = _with_judgements(run, pool, checking.judge, ruled)
    if checking.majority is not None:
        ruled = _with_majorities(run, checking.majority, ruled)
    document = _conclude(run, inputs, ruled.select(VERIFIED_SCHEMA.names).cast(VERIFIED_SCHEMA), controls)
    scratch.delete()
    return document


def _under(rollout: Rollout, instead: Mapping[str, str]) -> Rollout:
    """Return a rollout whose problem goes to another checker, where the configuration names one."""
    checker = instead.get(rollout.problem.checker, rollout.problem.checker)
    return replace(rollout, problem=replace(rollout.problem, checker=checker))


def _why_judged(problem: Problem, verdict: Verdict, both: tuple[str, str], *, is_audited: bool) -> str | None:
    """Return why a judge should look at an answer, None if it need not, or has nothing to compare with."""
    if problem.answer is None or needs_no_answer(problem.checker):
        return None
    if verdict.outcome in _UNDECIDED or verdict.detail.endswith(math_answer.UNREAD):
        return "undecided"
    if all(both) and both[0] != both[1]:
        return "disagreement"
    return "audit" if is_audited else None


def _by_rules(segments: Sequence[Place], checking: Checking, scratch: Place) -> pa.Table:
    dataset = ray.data.read_parquet(
        [segment.path for segment in segments], filesystem=segments[0].filesystem, override_num_blocks=len(segments)
    )
    dataset.map_batches(
        Rules,
        fn_constructor_args=(checking, scratch),
        batch_format="pyarrow",
        batch_size=1000,
        num_cpus=0.5,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=4),
    ).materialize()
    return pa.concat_tables([file.read_table() for file in scratch.list(".parquet")])


def _with_judgements(
    run: Run, pool: ReplicaPool | None, judge: Judge, ruled: pa.Table
) -> tuple[pa.Table, dict[str, Any]]:
    """Ask the judge what it is to be asked, each question once, and let it decide where the rules did not.

    Among the questions are controls whose answers are known. A judge that does no better on them than chance would
    decides nothing.
    """
    asked = ruled["judgement"].to_pylist()
    accept, refuse = _controls(run.problems(Split.TRAIN))
    wanted = dict.fromkeys(text for text in (*accept, *refuse, *asked) if text is not None)
    questions = {text: judgement.as_problem(text, "no" if text in refuse else "yes") for text in wanted}
    problems = list(questions.values())
    spec = EngineSpec.of(run, judge)
    job = SamplingJob(
        "judge", problems, judge.prompt, judge.sampling, Fixed(samples=1), run.judgements, spec, judge.replica_bounds
    )
    with pool_for(run, pool) as replicas:
        run_jobs(run, "verify", [job], replicas)
    said = run.judgements.read(["problem_id", "verdict_outcome", "model"])
    said = said.filter(pc.equal(said["model"], judge.model))
    outcomes = dict(zip(said["problem_id"].to_pylist(), said["verdict_outcome"].to_pylist(), strict=True))
    found = pa.array([outcomes.get(questions[text].id) if text is not None else None for text in asked], pa.string())
    controls = controlled(*([outcomes.get(questions[text].id) for text in texts] for texts in (accept, refuse)))
    decided = pc.is_in(found, value_set=pa.array([Outcome.CORRECT.value, Outcome.WRONG.value]))
    decides = pc.and_(decided, pc.is_in(ruled["judged_for"], value_set=pa.array(["undecided", "disagreement"])))
    if not controls["trusted"]:
        decides = pc.and_(decides, False)
    ruled = _replaced(
        _replaced(ruled, pc.is_valid(found), judge_outcome=found),
        decides,
        verdict_outcome=found,
        verdict_checker="judge",
        verdict_detail=pc.binary_join_element_wise(pa.scalar("judge"), ruled["verdict_detail"], " instead of "),
    )
    return ruled, controls


def _controls(problems: Sequence[Problem]) -> tuple[list[str], list[str]]:
    """Return questions that a judge must answer with yes (the gold answer itself), and with no (another's)."""
    known = [it for it in problems if it.answer is not None and not needs_no_answer(it.checker)]
    chosen = sorted(known, key=lambda it: content_hash("control", it.id))[:_CONTROLS]
    accept = [judgement.question(it, it.answer, "") for it in chosen]
    pairs = zip(chosen, [*chosen[1:], *chosen[:1]], strict=True)
    others = [
        (it, other.answer or "")
        for it, other in pairs
        if not consensus.is_same(it, it.answer or "", other.answer or "")
    ]
    return accept, [judgement.question(it, answer, "") for it, answer in others]


def controlled(accept: Sequence[str | None], refuse: Sequence[str | None]) -> dict[str, Any]:
    """Say how a judge did on its controls, and whether its word counts.

    It does if, at the lower ends of both intervals, it accepts right answers more readily than wrong ones.
    """
    right = [outcome == Outcome.CORRECT for outcome in accept]
    wrong = [outcome == Outcome.WRONG for outcome in refuse]
    if not right or not wrong:
        return {"accepts_gold": None, "refuses_others": None, "trusted": True}
    accepts, refuses = wilson(sum(right), len(right)), wilson(sum(wrong), len(wrong))
    return {
        "accepts_gold": asdict(accepts) | {"of": len(right)},
        "refuses_others": asdict(refuses) | {"of": len(wrong)},
        "trusted": accepts.low > 1 - refuses.low,
    }


def _with_majorities(run: Run, share: float, ruled: pa.Table) -> pa.Table:
    """Judge the rollouts of problems without a gold answer by what most of them say."""
    unanswered = {it.id: it for it in run.problems(Split.TRAIN) if it.answer is None}
    mask = pc.and_(
        pc.is_in(ruled["problem_id"], value_set=pa.array(unanswered, pa.string())),
        pc.is_valid(ruled["verdict_extracted"]),
    )
    rows: dict[str, list[tuple[str, str]]] = {}
    narrow = ruled.filter(mask).select(["problem_id", "id", "verdict_extracted"])
    for problem, identity, answer in zip(*(narrow[name].to_pylist() for name in narrow.column_names), strict=True):
        rows.setdefault(problem, []).append((identity, answer))
    found: dict[str, tuple[str, str]] = {}
    for identity, them in rows.items():
        problem, answers = unanswered[identity], [answer for _, answer in sorted(them)]
        most = consensus.majority(problem, answers)
        if most is None or most.of < consensus.LEAST_VOTES or most.share < share:
            continue
        detail = f"{most.votes} of {most.of} samples answer {most.answer[:80]}"
        for rollout, answer in them:
            right = consensus.is_same(problem, most.answer, answer)
            found[rollout] = (Outcome.CORRECT if right else Outcome.WRONG).value, detail
    values = [found.get(identity, (None, None)) for identity in ruled["id"].to_pylist()]
    outcomes, details = (pa.array(column, pa.string()) for column in zip(*values, strict=True))
    return _replaced(
        ruled,
        pc.is_valid(outcomes),
        verdict_outcome=outcomes,
        verdict_checker="majority",
        verdict_detail=details,
    )


def _replaced(table: pa.Table, where: pa.Array, **columns: Any) -> pa.Table:
    """Return a table with other values in the rows where a mask holds."""
    for name, values in columns.items():
        mixed = pc.if_else(pc.fill_null(where, False), values, table[name])
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), mixed)
    return table


def _conclude(run: Run, inputs: str, verified: pa.Table, controls: dict[str, Any] | None) -> dict[str, Any]:
    name = f"{inputs[:12]}.parquet"
    verified = verified.sort_by([(it, "ascending") for it in ("id", "resample", "verdict_outcome")])
    (run.verified / name).write_table(verified)
    pairs = zip(verified["outcome_before"].to_pylist(), verified["verdict_outcome"].to_pylist(), strict=True)
    counts = Counter(f"{before}>{now}" for before, now in pairs)
    changed = Counter({pair: count for pair, count in counts.items() if len(set(pair.split(">"))) == 2})
    document = {
        "inputs": inputs,
        "files": [name],
        "rows": verified.num_rows,
        "counts": dict(counts),
        "checkers": dict(Counter(verified["verdict_checker"].to_pylist())),
        "audit": run.config.checking.audit,
        "judge": run.config.checking.judge.model if run.config.checking.judge else None,
        "controls": controls,
        "agreement": agreement(verified),
    }
    (run.verified / "manifest.json").write(json.dumps(document, indent=2, sort_keys=True).encode())
    for file in run.verified.list(".parquet"):
        if file.name != name:
            file.delete()
    if controls and not controls["trusted"]:
        shares = [controls[name]["mean"] for name in ("accepts_gold", "refuses_others")]
        log_line(
            "verify",
            f"the judge accepts {shares[0]:.0%} of right and refuses {shares[1]:.0%} of wrong answers that are known:",
        )
        log_line("verify", "no better than chance, so it decides nothing")
    log_line("verify", f"{verified.num_rows:>7,} rollouts judged again   {sum(changed.values()):,} verdicts changed")
    for pair, count in changed.most_common():
        log_line("verify", f"{count:>7,} {pair.replace('>', ' → ')}")
    run.events.emit("verified", rows=document["rows"], counts=document["counts"])
    return document


def agreement(verified: pa.Table) -> dict[str, Any]:
    """Return how far the checkers agree on the rollouts that several of them judged.

    `missed` and `let_through` are estimates over the audited sample, the judge's word being taken for the truth: the
    share of answers that the rules refuse and the judge accepts, and of those that they accept and it refuses.
    """
    judged = verified.filter(pc.is_valid(verified["judge_outcome"]))
    audited = judged.filter(judged["audited"])
    rules, judge = (audited[name].to_pylist() for name in ("rules_outcome", "judge_outcome"))
    decided = [(one, other) for one, other in zip(rules, judge, strict=True) if other in ("correct", "wrong")]
    refused = [other == "correct" for one, other in decided if one != "correct"]
    accepted = [other == "wrong" for one, other in decided if one == "correct"]
    return {
        "rules": _pairs(verified, "fast_outcome", "symbolic_outcome"),
        "judge": _pairs(judged, "rules_outcome", "judge_outcome"),
        "missed": asdict(wilson(sum(refused), len(refused))) | {"of": len(refused)} if refused else None,
        "let_through": asdict(wilson(sum(accepted), len(accepted))) | {"of": len(accepted)} if accepted else None,
    }


def _pairs(table: pa.Table, one: str, other: str) -> list[dict[str, Any]]:
    """Count pairs of outcomes; what one of the two was not asked stands as null."""
    seen = table.filter(pc.or_(pc.is_valid(table[one]), pc.is_valid(table[other])))
    counts = Counter(zip(seen[one].to_pylist(), seen[other].to_pylist(), strict=True))
    return [{"first": first, "second": second, "rollouts": count} for (first, second), count in counts.most_common()]
