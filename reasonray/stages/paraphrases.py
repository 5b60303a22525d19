"""Search for train problems that are held-out problems in other words, by a language model, on a sample of them.

It runs before curation, so that rule `contaminated` drops what it finds. Control questions, whose answers are known,
are among the questions: a model that does no better on them than chance is reported, and drops nothing.

    <run>/paraphrases/       the model's questions and replies: a ledger
    <run>/paraphrases.json   what they say (curation.paraphrases.Findings)
"""

from __future__ import annotations

import json

import pyarrow.compute as pc

from reasonray.analysis.json_records import to_json
from reasonray.config import Fixed
from reasonray.curation.decontamination import held_out_items
from reasonray.curation.paraphrases import ControlQuestions, Findings, controls, findings, sample_of, similar_pairs
from reasonray.records import Split
from reasonray.sampling.pool import ReplicaPool, pool_for
from reasonray.sampling.sampler import run_jobs
from reasonray.sampling.work import SamplingJob
from reasonray.store.progress import log_line
from reasonray.store.run import Run


def find_paraphrases(run: Run, pool: ReplicaPool | None = None) -> None:
    """Ask the configuration's judge of paraphrases about its sample, and write what it finds. Without one, do nothing.

    Args:
        run: the run.
        pool: provides the model's replicas; None for a pool of the stage's own.

    Raises:
        UserError: a benchmark file does not exist, or has no column of text.
    """
    judge = run.config.curation.paraphrase_judge
    if judge is None:
        return
    items, train = held_out_items(run), run.problems(Split.TRAIN)
    sample = sample_of(train, run.config.curation.paraphrase_sample)
    pairs = similar_pairs(sample, items)
    control_questions = controls(train) if pairs else ControlQuestions()
    asked = (*control_questions.all, *(pair.question for pair in pairs))
    distinct = list({problem.id: problem for problem in asked}.values())
    if distinct:
        job = SamplingJob.of(run, "paraphrase_judge", judge, distinct, Fixed(samples=1), run.paraphrases)
        with pool_for(run, pool) as replicas:
            run_jobs(run, "label", [job], replicas)
    replies = run.paraphrases.read(["problem_id", "verdict_outcome", "model"])
    replies = replies.filter(pc.equal(replies["model"], judge.model))
    outcomes = dict(zip(replies["problem_id"].to_pylist(), replies["verdict_outcome"].to_pylist(), strict=True))
    found = findings(judge.model, len(items), len(sample), pairs, outcomes, control_questions)
    (run.place / "paraphrases.json").write(json.dumps(to_json(found), indent=2).encode())
    _log(found)


def _log(found: Findings) -> None:
    of = f"{found.sampled:,} train problems are a held-out problem in other words"
    share = found.share
    interval = f" ({share.mean:.1%} [{share.low:.1%}, {share.high:.1%}])" if share else ""
    unread = f"   {found.asked - found.read:,} replies could not be read" if found.asked > found.read else ""
    log_line("label", f"{found.paraphrases:>7,} of {of}{interval}{unread}")
    if not found.controls.trusted:
        log_line("label", "the model does no better on control questions than chance, so none is dropped")
