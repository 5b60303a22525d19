"""Remarks on what was left out or replaced while problems were read, counted, each with its first places."""

from __future__ import annotations

from collections import Counter

_NUM_PLACES = 3


class Notes:
    """Counts remarks, and keeps the first three places of each."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._places: dict[str, list[str]] = {}

    def add(self, remark: str, place: str, count: int = 1) -> None:
        """Count a remark.

        Args:
            remark: the same words for every row that it is about.
            place: file and row.
            count: the rows that it is about, from this place on.
        """
        self._counts[remark] += count
        places = self._places.setdefault(remark, [])
        if len(places) < _NUM_PLACES:
            places.append(place)

    def lines(self) -> list[str]:
        """Return one line a remark: how many rows it is about, and the first three places."""
        return [f"{count:>7,} {remark} ({self._shown(remark)})" for remark, count in self._counts.items()]

    def _shown(self, remark: str) -> str:
        """Return the places, a file's name once for consecutive rows of it."""
        places, shown, file = self._places[remark], [], ""
        for place in places:
            name, _, row = place.rpartition(", ")
            shown.append(row if name and name == file else place)
            file = name
        return "; ".join([*shown, "…"] if self._counts[remark] > len(places) else shown)
