"""Environments: matrices, cases, aligned equations."""

from __future__ import annotations

from typing import Final

from reasonray.checkers.mathematics import vocabulary
from reasonray.checkers.mathematics.grammar.recursion import Rules
from reasonray.checkers.mathematics.tree import Apply, Cases, Listing, Matrix, Tree, Words

_MATRICES: Final = frozenset("matrix pmatrix bmatrix Bmatrix vmatrix Vmatrix smallmatrix array".split())  # noqa: SIM905
_BLOCKS: Final = frozenset("cases aligned align gathered gather split dcases equation multline".split())  # noqa: SIM905


def parse_environment(parser: Rules, name: str) -> Tree:
    """Parse an environment as a matrix, a determinant, pieces or a list."""
    if name in _BLOCKS:
        parser.at -= 1
        return parse_block_rows(parser)
    if name not in _MATRICES:
        raise parser.fault(f"the environment {name!r}")
    rows = parse_rows(parser, name)
    if len({len(row) for row in rows}) != 1:
        raise parser.fault("rows of different lengths")
    matrix = Matrix(tuple(tuple(row) for row in rows))
    return Apply("det", (matrix,)) if name in ("vmatrix",) else matrix


def parse_rows(parser: Rules, name: str) -> list[list[Tree]]:
    """Parse the rows of a matrix."""
    parser.enclosures.append("block")
    rows: list[list[Tree]] = [[]]
    while not parser.accept(f"end {name}"):
        if parser.accept("row"):
            rows.append([])
        elif parser.accept("&"):
            continue
        else:
            rows[-1].append(parser.item())
    parser.enclosures.pop()
    return [row for row in rows if row]


def parse_block_rows(parser: Rules) -> Tree:
    """Parse the rows of `cases` or of aligned equations."""
    name = parser.next().text.removeprefix("begin ")
    parser.enclosures.append("block")
    rows: list[Tree] = []
    pieces: list[tuple[Tree, Tree]] = []
    while not parser.accept(f"end {name}"):
        if parser.accept("row") or parser.accept("&"):
            continue
        value = parser.item()
        parser.accept(",")
        if (parser.accept("&") or parser.word() in vocabulary.CONDITIONS) and parser.text() not in vocabulary.RELATIONS:
            while parser.word() in vocabulary.CONDITIONS and parser.word() != "otherwise":
                parser.at += 1
            parser.accept("&")
            if parser.word() == "otherwise" or parser.word() == "else":
                parser.at += 1
                pieces.append((value, Words("otherwise")))
            elif parser.text() in ("row", f"end {name}"):
                rows.append(value)
            else:
                condition = parser.item()
                if parser.accept(","):
                    condition = Listing((condition, parser.item()))
                pieces.append((value, condition))
            parser.accept(",", ".")
        else:
            rows.append(value)
    parser.enclosures.pop()
    if pieces and rows:
        raise parser.fault("pieces without conditions")
    if pieces:
        return Cases(tuple(pieces))
    return rows[0] if len(rows) == 1 else Listing(tuple(rows), "and")
