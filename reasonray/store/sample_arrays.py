"""The samples that a ledger holds of each problem, as arrays: the state from which sampling resumes.

A bit for each sample in three bitmaps, and a row for each sample that reached the token limit. With 16 samples a
problem takes 6 bytes, and 12 for looking its id up while the ledger is read, whatever number of rollouts there is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from reasonray.store.tally import CORRECT, JUDGEABLE, ROW, TRUNCATED, Rows, Tally, problem_keys

Bitmap = npt.NDArray[np.uint8]
"""[problems, bytes]: bit s & 7 of byte s >> 3 is sample s."""
Indices = npt.NDArray[np.int64]

MAX_SAMPLES = 1 << 20
"""Samples of a problem, at most: the bitmaps are as wide as the highest index, so a wrong one must not fill memory."""
_BATCH_ROWS = 1 << 20
"""Rows that are counted at the same time: many segments are small, and numpy is slow on small arrays."""
TRUNCATED_ROW = np.dtype([("problem", "<i4"), ("sample", "<i4"), ("resample", "<i4"), ("tokens", "<i4")])
_RESAMPLED_ROW = np.dtype([*TRUNCATED_ROW.descr, ("flags", "u1")])


@dataclass(frozen=True, slots=True)
class SampleArrays:
    """The committed samples of many problems under one fingerprint; only the newest resample of each counts."""

    finished: Bitmap
    correct: Bitmap
    """Samples with a CORRECT verdict."""
    judged: Bitmap
    """Samples whose outcome is about the model: correct, wrong, no answer or truncated."""
    truncated: Rows
    """Samples that reached the token limit, by problem and sample: an array of TRUNCATED_ROW."""

    @property
    def num_finished(self) -> Indices:
        """Finished samples of each problem."""
        return _count_bits(self.finished)

    @property
    def num_correct(self) -> Indices:
        """Correct samples of each problem."""
        return _count_bits(self.correct)

    @property
    def num_judged(self) -> Indices:
        """Judged samples of each problem."""
        return _count_bits(self.judged)

    def samples(self, problem: int) -> list[int]:
        """Return the indices of a problem's finished samples, in order."""
        bits = np.unpackbits(self.finished[problem], bitorder="little")
        return [int(sample) for sample in np.flatnonzero(bits)]

    def truncated_of(self, problem: int) -> Rows:
        """Return the rows of `truncated` of one problem."""
        start, end = np.searchsorted(self.truncated["problem"], (problem, problem + 1))
        return self.truncated[start:end]


def no_samples(problems: int) -> SampleArrays:
    """Return the arrays of problems without any sample."""
    empty = np.zeros((problems, 0), np.uint8)
    return SampleArrays(empty, empty, empty, np.empty(0, TRUNCATED_ROW))


def sample_arrays(problem_ids: Sequence[str] | pa.Array, tallies: Iterable[Tally]) -> dict[str, SampleArrays]:
    """Return the stored samples of problems by fingerprint. Fingerprints without any are left out.

    Args:
        problem_ids: of the problems; their order is that of the arrays. Other problems in the tallies are ignored,
            and so are indices of MAX_SAMPLES and more.
        tallies: of a ledger's segments, in order of commit.

    Raises:
        ValueError: two of the ids are the same, or have the same key.
    """
    index = _ProblemIndex(problem_ids)
    counters: dict[str, _Counter] = {}
    for fingerprints, rows in _batches(tallies):
        problems = index.find(rows["problem"])
        is_valid = (problems >= 0) & (rows["sample"] >= 0) & (rows["sample"] < MAX_SAMPLES)
        for number, fingerprint in enumerate(fingerprints):
            is_counted = is_valid & (rows["fingerprint"] == number)
            if is_counted.any():
                counter = counters.setdefault(fingerprint, _Counter(len(problem_ids)))
                counter.add(problems[is_counted], rows[is_counted])
    return {fingerprint: counter.finish() for fingerprint, counter in counters.items()}


class _ProblemIndex:
    """Finds problems by their keys."""

    def __init__(self, problem_ids: Sequence[str] | pa.Array) -> None:
        keys = problem_keys(problem_ids)
        self._order = np.argsort(keys).astype(np.int32)
        self._keys = keys[self._order]
        same = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if same.size:
            first, second = (problem_ids[self._order[same[0] + offset]] for offset in (0, 1))
            raise ValueError(f"problems {first} and {second} have the same key in a ledger")

    def find(self, keys: npt.NDArray[np.uint64]) -> Indices:
        """Return the index of each key's problem, -1 for unknown ones."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, self._order[at], -1)


class _Counter:
    """Counts the rollouts of one fingerprint, batch by batch in order of commit."""

    def __init__(self, problems: int) -> None:
        self._finished, self._correct, self._judged = (np.zeros((problems, 0), np.uint8) for _ in range(3))
        self._truncated: list[Rows] = []
        """Rows of TRUNCATED_ROW, of samples that were generated once."""
        self._resampled: list[Rows] = []
        """Rows of _RESAMPLED_ROW, of samples that were generated again."""

    def add(self, problems: Indices, rows: Rows) -> None:
        self._widen(int(rows["sample"].max()) // 8 + 1)
        again = rows["resample"] > 0
        if again.any():
            self._resampled.append(_gather(problems[again], rows[again], _RESAMPLED_ROW))
            problems, rows = problems[~again], rows[~again]
        bits = problems * self._width_bits + rows["sample"]
        bits, first = np.unique(bits, return_index=True)  # of a rollout that was committed twice, the first one counts
        is_new = ~_test(self._finished, bits)
        bits, rows, problems = bits[is_new], rows[first[is_new]], problems[first[is_new]]
        self._set(bits, rows["flags"])
        truncated = (rows["flags"] & TRUNCATED) != 0
        self._truncated.append(_gather(problems[truncated], rows[truncated], TRUNCATED_ROW))

    def finish(self) -> SampleArrays:
        """Let the newest resample of each sample take the place of earlier ones, and return the arrays."""
        resampled = np.concatenate([np.empty(0, _RESAMPLED_ROW), *self._resampled])
        bits = self._bits_of(resampled)
        order = np.lexsort((-resampled["resample"], bits))  # a stable sort: of equal ones, the first one counts
        resampled, bits = resampled[order], bits[order]
        is_newest = np.diff(bits, prepend=-1) != 0
        resampled, bits = resampled[is_newest], bits[is_newest]
        for bitmap in (self._correct, self._judged):
            _clear_bits(bitmap, bits)
        self._set(bits, resampled["flags"])
        once = np.concatenate([np.empty(0, TRUNCATED_ROW), *self._truncated])
        once = once[~np.isin(self._bits_of(once), bits)]
        again = resampled[(resampled["flags"] & TRUNCATED) != 0]
        truncated = np.concatenate([once, _gather(again["problem"], again, TRUNCATED_ROW)])
        truncated = truncated[np.argsort(self._bits_of(truncated))]
        return SampleArrays(self._finished, self._correct, self._judged, truncated)

    @property
    def _width_bits(self) -> int:
        return int(self._finished.shape[1]) * 8

    def _bits_of(self, rows: Rows) -> Indices:
        bits: Indices = rows["problem"].astype(np.int64) * self._width_bits + rows["sample"]
        return bits

    def _widen(self, width: int) -> None:
        missing = width - self._finished.shape[1]
        if missing > 0:
            self._finished, self._correct, self._judged = (
                np.pad(bitmap, ((0, 0), (0, missing))) for bitmap in (self._finished, self._correct, self._judged)
            )

    def _set(self, bits: Indices, flags: npt.NDArray[np.uint8]) -> None:
        _set_bits(self._finished, bits)
        _set_bits(self._correct, bits[(flags & CORRECT) != 0])
        _set_bits(self._judged, bits[(flags & JUDGEABLE) != 0])


def _batches(tallies: Iterable[Tally]) -> Iterator[tuple[list[str], Rows]]:
    """Yield the rows of many tallies together, with their indices among the fingerprints of all of them."""
    numbers: dict[str, int] = {}
    waiting: list[Tally] = []
    size = 0
    for tally in tallies:
        waiting.append(tally)
        size += len(tally.rows)
        if size >= _BATCH_ROWS:
            yield _together(waiting, numbers)
            waiting, size = [], 0
    if size:
        yield _together(waiting, numbers)


def _together(tallies: Sequence[Tally], numbers: dict[str, int]) -> tuple[list[str], Rows]:
    """Return the rows of tallies, and all fingerprints so far; adds new fingerprints to `numbers`."""
    translation = [
        numbers.setdefault(fingerprint, len(numbers)) for tally in tallies for fingerprint in tally.fingerprints
    ]
    firsts = np.cumsum([0, *(len(tally.fingerprints) for tally in tallies[:-1])])
    rows = np.frombuffer(b"".join(tally.rows.tobytes() for tally in tallies), ROW).copy()
    first = np.repeat(firsts, [len(tally.rows) for tally in tallies])
    rows["fingerprint"] = np.array(translation)[first + rows["fingerprint"]]
    return list(numbers), rows


def _gather(problems: npt.NDArray[np.integer], rows: Rows, kind: np.dtype[np.void]) -> Rows:
    gathered = np.empty(len(rows), kind)
    gathered["problem"] = problems
    for name in (kind.names or ())[1:]:
        gathered[name] = rows[name]
    return gathered


def _test(bitmap: Bitmap, bits: Indices) -> npt.NDArray[np.bool_]:
    is_set: npt.NDArray[np.bool_] = (bitmap.ravel()[bits >> 3] >> (bits & 7) & 1).astype(np.bool_)
    return is_set


def _set_bits(bitmap: Bitmap, bits: Indices) -> None:
    """Set bits, which are sorted and distinct."""
    places, masks = _masks(bits)
    bitmap.ravel()[places] |= masks


def _clear_bits(bitmap: Bitmap, bits: Indices) -> None:
    """Clear bits, which are sorted and distinct."""
    places, masks = _masks(bits)
    bitmap.ravel()[places] &= ~masks


def _masks(bits: Indices) -> tuple[Indices, Bitmap]:
    """Return the bytes that hold some bits, and the bits of each as a mask."""
    places = bits >> 3
    starts = np.flatnonzero(np.diff(places, prepend=-1))
    if not len(starts):
        return places, np.empty(0, np.uint8)
    return places[starts], np.bitwise_or.reduceat((1 << (bits & 7)).astype(np.uint8), starts)


def _count_bits(bitmap: Bitmap) -> Indices:
    counts: Indices = np.bitwise_count(bitmap).sum(axis=1, dtype=np.int64)
    return counts
