"""Which answers are one answer: a vote counts what the problem's checker takes for the same, however it is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from reasonray.checkers.consensus import same_answers
from reasonray.records import Outcome, Problem
from reasonray.store.schema import set_columns


def alike(rollouts: pa.Table, problems: Mapping[str, Problem]) -> pa.Table:
    """Return the rollouts with `verdict_extracted` of wrong answers as the first of its equals writes it.

    Equal is what the problem's checker finds equal at once (1/2 and 0.5, 1,000 and 1000), or the same words; algebra
    is not asked, so 2(x+1) and 2x+2 stay two answers. Correct answers are one answer anyway: the checker said so.

    Args:
        rollouts: columns problem_id, verdict_outcome, verdict_extracted.
        problems: by id; what is not among them keeps its text.
    """
    wrong = pc.not_equal(rollouts["verdict_outcome"], Outcome.CORRECT.value).to_pylist()
    owners, texts = rollouts["problem_id"].to_pylist(), rollouts["verdict_extracted"].to_pylist()
    ballots: defaultdict[str, list[int]] = defaultdict(list)
    for row, (owner, text) in enumerate(zip(owners, texts, strict=True)):
        if wrong[row] and text is not None and owner in problems:
            ballots[owner].append(row)
    for owner, rows in ballots.items():
        for group in same_answers(problems[owner], [texts[row] for row in rows]):
            for one in group:
                texts[rows[one]] = texts[rows[group[0]]]
    column = pa.array(texts, rollouts.schema.field("verdict_extracted").type)
    return set_columns(rollouts, {"verdict_extracted": column})
