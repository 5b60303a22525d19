"""Equal answers of a problem, as its checker finds them equal: majority votes count them together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.checkers.consensus import same_answers
from reasonray.records import Outcome, Problem
from reasonray.store.schema import set_columns


def group_equal_answers(rollouts: pa.Table, problems: Mapping[str, Problem]) -> pa.Table:
    """Return the rollouts with one spelling of each wrong answer in `verdict_extracted`: that of its first rollout.

    Two answers are equal if the problem's checker finds them equal without algebra (1/2 and 0.5, 1,000 and 1000), or if
    they are the same words. Algebra is not used, so 2(x+1) and 2x+2 remain two answers. Correct answers need no such
    grouping, because the checker has found them equal to the gold answer.

    Args:
        rollouts: columns problem_id, verdict_outcome, verdict_extracted.
        problems: by id. Answers to a problem that is missing here are returned unchanged.
    """
    is_wrong = pc.not_equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_pylist()
    problem_ids, answers = rollouts["problem_id"].to_pylist(), rollouts["verdict_extracted"].to_pylist()
    wrong_rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, (problem_id, answer) in enumerate(zip(problem_ids, answers, strict=True)):
        if is_wrong[row] and answer is not None and problem_id in problems:
            wrong_rows[problem_id].append(row)
    for problem_id, rows in wrong_rows.items():
        for group in same_answers(problems[problem_id], [answers[row] for row in rows]):
            for index in group:
                answers[rows[index]] = answers[rows[group[0]]]
    column = pa.array(answers, rollouts.schema.field("verdict_extracted").type)
    return set_columns(rollouts, {"verdict_extracted": column})
