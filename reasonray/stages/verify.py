"""Verification: judge the stored rollouts again with the checkers as they are now. No solution is sampled.

Verdicts come from a cascade. The rules (the fast path, then algebra) judge every rollout. A language model, if there is
one, is asked where the rules cannot decide or disagree. Where a problem has no gold answer, the majority can stand in
for it. All of them judge a random sample of the rollouts (the audit), which shows how far they agree and how many
correct answers the rules miss.

The verdicts that rollouts were committed with stay in the ledger. The new ones are written next to them, with the
finding of each checker, and curation uses the new ones.

    <run>/verified/<name>.parquet, <run>/verified/manifest.json (written last)
    <run>/judgements/   the judge's questions and replies: a ledger like that of the rollouts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
import ray.data

from reasonray.analysis.checker_agreement import agreement, control_results
from reasonray.checkers import CheckResult, consensus, find_checker, judgement, own
from reasonray.checkers.pool import CheckerPool, refuse_faulty
from reasonray.config import Checking, Fixed, Judge, UserError
from reasonray.prompts import split_reasoning
from reasonray.records import Finish, Outcome, Problem, Rollout, Split, content_hash, hash_fraction
from reasonray.sampling.cluster import quiet_ray_data
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run
from reasonray.store.schema import ROLLOUT_SCHEMA, select_columns, stored_columns, table_to_rollouts
from reasonray.store.storage import Place
from reasonray.store.verdicts import VERIFIED_SCHEMA

_NUM_CONTROLS = 50
"""Control questions of each kind."""
_BATCH = 1000
"""Rollouts that an actor judges at a time."""
_UNDECIDED = (Outcome.NO_ANSWER, Outcome.UNVERIFIABLE, Outcome.TIMEOUT, Outcome.FAILED)
_RULES_SCHEMA = pa.schema([*VERIFIED_SCHEMA, pa.field("question", pa.large_string())])
"""`question` is the one to ask the judge; null for none."""

Outcomes = tuple[Outcome | None, Outcome | None]
"""Of the fast path and of the algebra."""


class Rules:
    """A Ray Data actor that judges the rollouts of a segment by rules and writes the verdicts to files.

    It reads the segments itself, because Ray Data would give segments of different schema versions one schema.
    """

    def __init__(self, checking: Checking, target: Place) -> None:
        self._checking, self._target = checking, target
        self._pool = CheckerPool(checking)

    def __call__(self, row: dict[str, str]) -> dict[str, int]:
        """Judge the segment at row["path"], and return the number of its rollouts."""
        segment = Place(self._target.filesystem, row["path"])
        count = 0
        for number, rollouts in enumerate(_batches(segment)):
            rollouts = [_with_checker_instead(rollout, self._checking.instead) for rollout in rollouts]
            begun = [self._begin(rollout) for rollout in rollouts]  # all of them, before waiting for the first
            rows = [self._row(rollout, *futures) for rollout, futures in zip(rollouts, begun, strict=True)]
            name = f"{segment.name.removesuffix('.parquet')}-{number:05d}.parquet"
            (self._target / name).write_table(pa.Table.from_pylist(rows, schema=_RULES_SCHEMA))
            count += len(rows)
        return {"rollouts": count}

    def _begin(self, rollout: Rollout) -> tuple[Future[CheckResult] | None, Future[Outcomes] | None]:
        """Begin to judge a rollout, and by each rule alone if it is audited. Failed completions are not judged."""
        if rollout.finish is Finish.ERROR:
            return None, None
        arguments = rollout.problem, rollout.answer, rollout.finish
        is_audited = hash_fraction(rollout.id) < self._checking.audit
        return self._pool.submit(*arguments), self._pool.compare_rules(*arguments) if is_audited else None

    def _row(
        self, rollout: Rollout, checked: Future[CheckResult] | None, compared: Future[Outcomes] | None
    ) -> dict[str, Any]:
        """Return the row of a rollout when its checks have ended."""
        result = checked.result() if checked else CheckResult(rollout.verdict)
        verdict = result.verdict
        fast, symbolic = compared.result() if compared else (None, None)
        response = split_reasoning(rollout.answer)[1]
        has_answer = verdict.extracted or (rollout.finish is Finish.STOP and response.strip())
        reason = None
        if self._checking.judge and has_answer:
            is_disagreement = bool(fast and symbolic and fast is not symbolic)
            reason = _judged_for(rollout.problem, result, is_disagreement, is_audited=compared is not None)
        return {
            "id": rollout.id,
            "resample": rollout.resample,
            "problem_id": rollout.problem.id,
            "outcome_before": rollout.verdict.outcome.value,
            **{f"verdict_{name}": value for name, value in asdict(verdict).items()},
            "rules_outcome": verdict.outcome.value,
            "fast_outcome": fast and fast.value,
            "symbolic_outcome": symbolic and symbolic.value,
            "judge_outcome": None,
            "judged_for": reason,
            "audited": compared is not None,
            "question": judgement.question(rollout.problem, verdict.extracted, response) if reason else None,
        }


def verify(run: Run, pool: ReplicaPool | None = None, *, again: bool = True) -> dict[str, Any]:
    """Judge every committed rollout again, and return the manifest.

    Args:
        run: the run.
        pool: provides the judge's replicas, which start only if there is something to ask; None for a pool of the
            stage's own.
        again: whether to do so if the same rollouts were verified under the same configuration before.

    Raises:
        UserError: the run has no rollouts, a checker does not exist, or one of the user's own is faulty.
    """
    segments = run.ledger.segments()
    if not segments:
        raise UserError(f"run {run.name} holds no rollouts to verify; run jobs/sample.py first")
    checking = run.config.checking
    versions = _own_versions(run, checking)
    columns = str(VERIFIED_SCHEMA).replace("large_string", "string")  # as up to schema 3, whose verdicts are the same
    inputs = content_hash(
        columns, checking.model_dump_json(), *_texts(versions), *(segment.name for segment in segments)
    )
    before = (run.verified / "manifest.json").read_json_or_none()
    if before and not again and before["inputs"] == inputs:
        log_line("verify", "done before")
        return before
    scratch = run.verified / "rules"
    scratch.delete()
    quiet_ray_data()
    verified = _by_rules(segments, checking, scratch)
    controls = None
    if checking.judge:
        verified, controls = _with_judgements(run, pool, checking.judge, verified)
    if checking.majority is not None:
        verified = _with_majorities(run, checking.majority, verified)
    document = _conclude(run, inputs, verified.select(VERIFIED_SCHEMA.names).cast(VERIFIED_SCHEMA), controls)
    scratch.delete()
    run.record_checker_versions(versions)
    return document


def _own_versions(run: Run, checking: Checking) -> dict[str, str]:
    """Return the versions of the user's own checkers that are to judge, after they were tried on the run's problems."""
    for name in checking.instead.values():
        find_checker(name)
    names = {*run.checker_versions(), *checking.instead, *checking.instead.values()}
    if not any(map(own.is_own, names)):
        return {}
    problems = [problem for split in Split for problem in run.problems(split)]
    judged = [replace(problem, checker=checking.instead.get(problem.checker, problem.checker)) for problem in problems]
    refuse_faulty(judged, checking)
    return own.versions(problem.checker for problem in judged)


def _texts(versions: Mapping[str, str]) -> list[str]:
    return [f"{name}@{version}" for name, version in versions.items()]


def _by_rules(segments: Sequence[Place], checking: Checking, scratch: Place) -> pa.Table:
    """Return the verdicts of the rules, of _RULES_SCHEMA."""
    rows = [{"path": segment.path} for segment in segments]
    actors = num_actors(len(segments), ray.cluster_resources().get("CPU", 0.0), checking.processes)
    ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        Rules,
        fn_constructor_args=(checking, scratch),
        num_cpus=_cpu_share(actors),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
    ).materialize()
    return pa.concat_tables([file.read_table() for file in scratch.list(".parquet")])


def num_actors(segments: int, cpus: float, processes: int) -> int:
    """Return how many actors judge at the same time, at most: as many as there are CPUs for their checker processes.

    Args:
        segments: to judge; an actor judges one at a time.
        cpus: of the cluster.
        processes: checker processes of an actor.
    """
    return max(1, min(segments, int(cpus) // processes))


def _cpu_share(actors: int) -> float:
    """Return the CPUs that an actor asks for.

    It is small, because a larger share would wait for ever next to replicas that hold the cluster's CPUs; the work is
    done by the actor's checker processes, which count for as little next to a replica. It is more than 0 where
    possible, because that keeps actors off a head node without CPUs.
    """
    share = 0.01
    return share if ray.available_resources().get("CPU", 0.0) >= actors * share else 0.0


def _batches(segment: Place) -> Iterator[list[Rollout]]:
    """Yield the rollouts of a segment of this version of the schema or an older one."""
    with pq.ParquetFile(segment.path, filesystem=segment.filesystem, pre_buffer=True) as file:
        columns = stored_columns(ROLLOUT_SCHEMA.names, file.schema_arrow)
        for batch in file.iter_batches(_BATCH, columns=columns):
            table = select_columns(pa.Table.from_batches([batch]), ROLLOUT_SCHEMA.names)
            yield table_to_rollouts(table.cast(ROLLOUT_SCHEMA))


def _with_checker_instead(rollout: Rollout, instead: Mapping[str, str]) -> Rollout:
    """Return a rollout whose problem has another checker, where the configuration names one."""
    checker = instead.get(rollout.problem.checker, rollout.problem.checker)
    return replace(rollout, problem=replace(rollout.problem, checker=checker))


def _judged_for(problem: Problem, result: CheckResult, is_disagreement: bool, *, is_audited: bool) -> str | None:
    """Return why a judge is to look at an answer, or None if it need not or has no gold answer to compare with."""
    if problem.answer is None or not find_checker(problem.checker).needs_answer:
        return None
    if result.verdict.outcome in _UNDECIDED or result.is_undecided:
        return "undecided"
    if is_disagreement:
        return "disagreement"
    return "audit" if is_audited else None


def _with_judgements(
    run: Run, pool: ReplicaPool | None, judge: Judge, verified: pa.Table
) -> tuple[pa.Table, dict[str, Any]]:
    """Ask the judge each question once, and let it decide where the rules did not; return the result of its controls.

    Control questions, whose answers are known, are among the questions. A judge that does no better on them than chance
    decides nothing.
    """
    questions = verified["question"].to_pylist()
    accept, refuse = _controls(run.problems(Split.TRAIN))
    texts = dict.fromkeys(text for text in (*accept, *refuse, *questions) if text is not None)
    problems = {text: judgement.as_problem(text, "no" if text in refuse else "yes") for text in texts}
    job = SamplingJob.of(run, "judge", judge, list(problems.values()), Fixed(samples=1), run.judgements)
    with pool_for(run, pool) as replicas:
        run_jobs(run, "verify", [job], replicas)
    replies = run.judgements.read(["problem_id", "verdict_outcome", "model"])
    replies = replies.filter(pc.equal(replies["model"], judge.model))
    outcomes = dict(zip(replies["problem_id"].to_pylist(), replies["verdict_outcome"].to_pylist(), strict=True))
    judged = pa.array(
        [outcomes.get(problems[text].id) if text is not None else None for text in questions], pa.large_string()
    )
    controls = control_results(*([outcomes.get(problems[text].id) for text in texts] for texts in (accept, refuse)))
    has_decided = pc.is_in(judged, value_set=pa.array([Outcome.CORRECT.value, Outcome.WRONG.value]))
    may_decide = pc.is_in(verified["judged_for"], value_set=pa.array(["undecided", "disagreement"]))
    decides = pc.and_(pc.and_(has_decided, may_decide), controls["trusted"])
    verified = _replaced(
        _replaced(verified, pc.is_valid(judged), judge_outcome=judged),
        decides,
        verdict_outcome=judged,
        verdict_checker="judge",
        verdict_detail=_judge_instead_of(verified["verdict_detail"]),
    )
    return verified, controls


def _judge_instead_of(details: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the details of verdicts that the judge decided in place of the rules."""
    judge, instead_of = (pa.scalar(text, details.type) for text in ("judge", " instead of "))
    return pc.binary_join_element_wise(judge, details, instead_of)


def _controls(problems: Sequence[Problem]) -> tuple[list[str], list[str]]:
    """Return questions about answers that a judge must accept (gold answers), and must refuse (other problems')."""
    answered = [
        problem for problem in problems if problem.answer is not None and find_checker(problem.checker).needs_answer
    ]
    chosen = sorted(answered, key=lambda problem: content_hash("control", problem.id))[:_NUM_CONTROLS]
    accept = [judgement.question(problem, problem.answer, "") for problem in chosen]
    refuse = [
        judgement.question(problem, other.answer, "")
        for problem, other in zip(chosen, [*chosen[1:], *chosen[:1]], strict=True)
        if not consensus.is_same(problem, problem.answer or "", other.answer or "")
    ]
    return accept, refuse


def _with_majorities(run: Run, min_share: float, verified: pa.Table) -> pa.Table:
    """Judge the rollouts of problems without a gold answer by the answer that most of them give."""
    unanswered = {problem.id: problem for problem in run.problems(Split.TRAIN) if problem.answer is None}
    mask = pc.and_(
        pc.is_in(verified["problem_id"], value_set=pa.array(unanswered, pa.large_string())),
        pc.is_valid(verified["verdict_extracted"]),
    )
    answers: dict[str, list[tuple[str, str]]] = {}
    columns = verified.filter(mask).select(["problem_id", "id", "verdict_extracted"]).to_pydict().values()
    for problem_id, rollout_id, answer in zip(*columns, strict=True):
        answers.setdefault(problem_id, []).append((rollout_id, answer))
    judged: dict[str, tuple[str, str]] = {}
    for problem_id, pairs in answers.items():
        problem = unanswered[problem_id]
        most = consensus.majority(problem, [answer for _, answer in sorted(pairs)])
        if most is None or most.num_answers < consensus.MIN_VOTES or most.share < min_share:
            continue
        detail = f"{most.votes} of {most.num_answers} samples answer {most.answer[:80]}"
        for rollout_id, answer in pairs:
            is_right = consensus.is_same(problem, most.answer, answer)
            judged[rollout_id] = (Outcome.CORRECT if is_right else Outcome.WRONG).value, detail
    values = [judged.get(rollout_id, (None, None)) for rollout_id in verified["id"].to_pylist()]
    outcomes, details = (pa.array(column, pa.large_string()) for column in zip(*values, strict=True))
    return _replaced(
        verified,
        pc.is_valid(outcomes),
        verdict_outcome=outcomes,
        verdict_checker="majority",
        verdict_detail=details,
    )


def _replaced(table: pa.Table, mask: pa.Array, **columns: Any) -> pa.Table:
    """Return a table with other values in the rows of a mask."""
    for name, values in columns.items():
        mixed = pc.if_else(pc.fill_null(mask, False), values, table[name])
        table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), mixed)
    return table


def _conclude(run: Run, inputs: str, verified: pa.Table, controls: dict[str, Any] | None) -> dict[str, Any]:
    """Write the verdicts and the manifest, remove earlier files, and print what changed."""
    name = f"{inputs[:12]}.parquet"
    verified = verified.sort_by([(column, "ascending") for column in ("id", "resample", "verdict_outcome")])
    (run.verified / name).write_table(verified)
    pairs = zip(verified["outcome_before"].to_pylist(), verified["verdict_outcome"].to_pylist(), strict=True)
    counts = Counter(pairs)
    judge = run.config.checking.judge
    document = {
        "inputs": inputs,
        "files": [name],
        "rows": verified.num_rows,
        "counts": {f"{before}>{now}": count for (before, now), count in counts.items()},
        "checkers": dict(Counter(verified["verdict_checker"].to_pylist())),
        "audit": run.config.checking.audit,
        "judge": judge.model if judge else None,
        "controls": controls,
        "agreement": agreement(verified),
    }
    (run.verified / "manifest.json").write(json.dumps(document, indent=2, sort_keys=True).encode())
    for file in run.verified.list(".parquet"):
        if file.name != name:
            file.delete()
    if controls and not controls["trusted"]:
        accepted, refused = controls["accepts_gold"]["mean"], controls["refuses_others"]["mean"]
        log_line(
            "verify", f"the judge accepts {accepted:.0%} of correct and refuses {refused:.0%} of wrong control answers:"
        )
        log_line("verify", "no better than chance, so it decides nothing")
    changed = [(before, now, count) for (before, now), count in counts.most_common() if before != now]
    num_changed = sum(count for _, _, count in changed)
    log_line("verify", f"{verified.num_rows:>7,} rollouts judged again   {num_changed:,} verdicts changed")
    for before, now, count in changed:
        log_line("verify", f"{count:>7,} {before} → {now}")
    run.events.emit("verified", rows=document["rows"], counts=document["counts"])
    return document
