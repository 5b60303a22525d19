"""Tallies: what resuming needs to know of each rollout of a segment, in 23 bytes a rollout.

A tally is written when its segment is committed, so that resuming and progress never open a segment. That of a small
segment is a part of its manifest, that of a large one is a file next to it.

    <place>/manifest/<name>.json    {…, "tally": {"fingerprints": […], "rows": number, "content": base64}}
    <place>/tallies/<name>          the content, if the segment has more than INLINE_ROWS rows
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from reasonray.records import JUDGED, Finish, Outcome

TALLIED_COLUMNS = [
    *("problem_id", "fingerprint", "teacher", "sample", "resample"),
    *("completion_tokens", "verdict_outcome", "finish"),
]
"""Columns of the ledger that a tally is made of: none of them holds text."""
INLINE_ROWS = 4096
"""Rows of the largest tally that its manifest holds."""
CORRECT, JUDGEABLE, TRUNCATED = 1, 2, 4
"""Bits of `flags`: the outcome is CORRECT; the outcome is about the model; the token limit was reached."""

Rows = npt.NDArray[np.void]
Keys = npt.NDArray[np.uint64]

ROW = np.dtype(
    [
        ("problem", "<u8"),
        ("sample", "<i4"),
        ("tokens", "<i4"),
        ("resample", "<i4"),
        ("fingerprint", "<u2"),
        ("flags", "u1"),
    ]
)
"""A rollout: key of the problem (problem_keys), index among the tally's fingerprints, completion tokens, bits."""

_CODEC = pa.Codec("zstd")
_KEY_DIGITS, _ID_DIGITS = 16, 20
_DIGIT_VALUES = np.full(256, 255, np.uint8)
_DIGIT_VALUES[np.frombuffer(b"0123456789abcdef", np.uint8)] = np.arange(16)


@dataclass(frozen=True, slots=True)
class Tally:
    """The rollouts of one segment, in order."""

    fingerprints: tuple[str, ...]
    rows: Rows
    """An array of ROW."""

    def to_json(self, content: bytes | None = None) -> dict[str, Any]:
        """Return the tally's part of a manifest; without `content` if that is a file of its own."""
        inline = {} if content is None else {"content": b64encode(content).decode()}
        return {"fingerprints": list(self.fingerprints), "rows": len(self.rows), **inline}

    def content(self) -> bytes:
        """Return the rows, compressed."""
        return bytes(_CODEC.compress(self.rows.tobytes(), asbytes=True))

    @staticmethod
    def of_json(stored: Mapping[str, Any], content: bytes | None = None) -> Tally:
        """Return the tally of a manifest's part, and of the content of its file if that is not in the manifest."""
        packed = b64decode(stored["content"]) if content is None else content
        size = stored["rows"] * ROW.itemsize
        rows = np.frombuffer(_CODEC.decompress(packed, size, asbytes=True), ROW) if size else np.empty(0, ROW)
        return Tally(tuple(stored["fingerprints"]), rows)


@dataclass(slots=True)
class CommittedCounts:
    """Counts of committed rollouts. A sample that was generated again counts each time."""

    rollouts: int = 0
    again: int = 0
    """Of these, samples that were generated again."""
    correct: int = 0
    tokens: int = 0
    """Of the completions."""
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, other: CommittedCounts) -> None:
        """Add another's counts."""
        self.rollouts += other.rollouts
        self.again += other.again
        self.correct += other.correct
        self.tokens += other.tokens
        self.outcomes.update(other.outcomes)


CountsByTeacher = dict[tuple[str, str], CommittedCounts]
"""(teacher, fingerprint) → counts."""


def tally_of(rollouts: pa.Table) -> Tally:
    """Return the tally of a segment.

    Args:
        rollouts: TALLIED_COLUMNS of its rows.

    Raises:
        ValueError: the segment has more than 65,536 fingerprints.
    """
    encoded = pa.array(rollouts["fingerprint"].to_pylist(), pa.large_string()).dictionary_encode()
    fingerprints = encoded.dictionary.to_pylist()
    if len(fingerprints) > np.iinfo(ROW["fingerprint"]).max:
        raise ValueError(f"a segment of {len(fingerprints)} fingerprints")
    outcome = rollouts["verdict_outcome"]
    judged = pc.is_in(outcome, value_set=pa.array([name.value for name in JUDGED], outcome.type))
    rows = np.empty(rollouts.num_rows, ROW)
    rows["problem"] = problem_keys(rollouts["problem_id"])
    rows["fingerprint"] = encoded.indices.to_numpy()
    for name, column in (("sample", "sample"), ("tokens", "completion_tokens"), ("resample", "resample")):
        rows[name] = rollouts[column].to_numpy()
    rows["flags"] = (
        pc.equal(outcome, Outcome.CORRECT.value).to_numpy() * CORRECT
        + judged.to_numpy() * JUDGEABLE
        + pc.equal(rollouts["finish"], Finish.LENGTH.value).to_numpy() * TRUNCATED
    )
    return Tally(tuple(fingerprints), rows)


def counts_of(rollouts: pa.Table) -> CountsByTeacher:
    """Return the counts of a segment.

    Args:
        rollouts: TALLIED_COLUMNS of its rows.
    """
    names = ["teacher", "fingerprint", "verdict_outcome"]
    rollouts = rollouts.append_column("again", pc.greater(rollouts["resample"], 0).cast(pa.int64()))
    sums = [("completion_tokens", "sum"), ("again", "sum"), ([], "count_all")]
    groups = rollouts.group_by(names, use_threads=False).aggregate(sums)
    counts: CountsByTeacher = {}
    for row in groups.to_pylist():
        number, outcome = row["count_all"], row["verdict_outcome"]
        correct = number if outcome == Outcome.CORRECT.value else 0
        added = CommittedCounts(
            number, row["again_sum"], correct, row["completion_tokens_sum"], Counter({outcome: number})
        )
        counts.setdefault((row["teacher"], row["fingerprint"]), CommittedCounts()).add(added)
    return counts


def counts_to_json(counts: CountsByTeacher) -> list[dict[str, Any]]:
    """Return counts as they are stored in a manifest."""
    return [
        {
            "teacher": teacher,
            "fingerprint": fingerprint,
            "rollouts": committed.rollouts,
            "again": committed.again,
            "correct": committed.correct,
            "tokens": committed.tokens,
            "outcomes": dict(committed.outcomes),
        }
        for (teacher, fingerprint), committed in counts.items()
    ]


def counts_of_json(stored: Iterable[Mapping[str, Any]]) -> CountsByTeacher:
    """Return the counts that a manifest holds."""
    return {
        (entry["teacher"], entry["fingerprint"]): CommittedCounts(
            entry["rollouts"], entry["again"], entry["correct"], entry["tokens"], Counter(entry["outcomes"])
        )
        for entry in stored
    }


def problem_keys(ids: pa.Array | pa.ChunkedArray | Sequence[str]) -> Keys:
    """Return a number of 64 bits for each problem id.

    It is the number that the first 16 of an id's 20 hex digits write, so that it costs nothing to compute; an id of
    another form (a user's own) is hashed.
    """
    array = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(ids, pa.large_string())
    chunks = array.chunks if isinstance(array, pa.ChunkedArray) else [array]
    return np.concatenate([np.empty(0, np.uint64), *(_keys(chunk.cast(pa.large_string())) for chunk in chunks)])


def _keys(ids: pa.LargeStringArray) -> Keys:
    _, offsets_buffer, characters = ids.buffers()
    if not len(ids):
        return np.empty(0, np.uint64)
    offsets = np.frombuffer(offsets_buffer, np.int64)[ids.offset : ids.offset + len(ids) + 1]
    if not (np.diff(offsets) == _ID_DIGITS).all():
        return np.array([_key(text) for text in ids.to_pylist()], np.uint64)
    text = np.frombuffer(characters, np.uint8)[offsets[0] : offsets[-1]].reshape(-1, _ID_DIGITS)
    digits = _DIGIT_VALUES[text]
    pairs = digits[:, 0:_KEY_DIGITS:2] << 4 | digits[:, 1:_KEY_DIGITS:2]
    keys: Keys = np.ascontiguousarray(pairs).view(">u8").ravel().astype(np.uint64)
    for row in np.flatnonzero((digits > 15).any(axis=1)).tolist():
        keys[row] = _key(ids[row].as_py())
    return keys


def _key(problem_id: str) -> int:
    digits = problem_id.encode()
    if len(digits) == _ID_DIGITS and not digits.strip(b"0123456789abcdef"):
        return int(problem_id[:_KEY_DIGITS], 16)
    return int.from_bytes(blake2b(digits, digest_size=8).digest(), "big")
