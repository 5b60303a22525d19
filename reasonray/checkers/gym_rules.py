"""Our own rules for the tasks of reasoning-gym whose scorers evaluate the answer, accept wrong ones, or are not needed.

A rule reads an answer whole, in linear time, evaluates nothing, and names its reason, which the README's table shows:

    same       the library compares the texts, as our rule does
    evaluates  the library's scorer passes the answer to `eval` or to sympy's parse_expr
    accepts    the library's scorer gives full credit to wrong answers, such as the one named
    refuses    the library's scorer refuses the gold answer after its entry was stored as JSON

The tasks that are not listed are scored by the library, in the sandbox (checkers/gym_scorer.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Context, Decimal
from fractions import Fraction
from typing import Any

from reasonray.checkers import expressions

Agrees = Callable[[str, str, Mapping[str, Any]], bool]
"""(answer, gold answer, the entry's metadata) → whether the answer earns full credit. ValueError, ArithmeticError and
RecursionError mean that the answer cannot be read: it is wrong. Any other exception is the problem's own fault."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule for a task, with the reason why the library's scorer is not asked."""

    agrees: Agrees
    kind: str
    """One of same, evaluates, accepts, refuses."""
    library: str = ""
    """How the library's scorer evaluates the answer, or what it accepts or refuses."""


_NUMBER = re.compile(r"[-+]?\$?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d*)?(?:[eE][-+]?\d{1,3})?", re.A)
_FRACTION = re.compile(r"\$?\s*(?:\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}|(\d+)\s*/\s*(\d+))\s*\$?", re.A)
_COMPLEX = re.compile(r"(?P<real>[-+]?[\d.]++(?![ij]))?(?P<imaginary>[-+]?[\d.]*+[ij])?", re.A)
_LETTER_IS_DIGIT = re.compile(r"([A-Z])\s*=\s*(\d)", re.A)
_DAYS = re.compile(r"(?:(?P<days>\d+)(?:\s*days?)?)", re.A)
_TIME = re.compile(
    r"(?:(?P<days>\d+) days?,\s*)?(?P<hours>\d+):(?P<minutes>\d+)(?::(?P<seconds>\d+)(?:\.(?P<fraction>\d+))?)?", re.A
)


def lines(text: str) -> list[list[str]]:
    """Return the words of each line that has any."""
    return [line.split() for line in text.splitlines() if line.strip()]


def number(text: str) -> Fraction:
    """Return the value of a decimal number with an optional sign, thousands separators, exponent or dollar sign.

    Raises:
        ValueError: the text is not one.
    """
    text = text.strip().replace("−", "-")
    if not _NUMBER.fullmatch(text) or not any(character.isdigit() for character in text):
        raise ValueError("not a number")
    return Fraction(text.replace(",", "").replace("$", ""))


def _same(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return lines(answer) == lines(gold)


def _same_letters(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return "".join(answer.split()).casefold() == "".join(gold.split()).casefold()


def _same_words(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return answer.casefold().split() == gold.casefold().split()


def _same_list(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return [word.strip() for word in answer.split(",")] == [word.strip() for word in gold.split(",")]


def _same_number(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return number(answer) == number(gold)


def _same_probability(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare a fraction exactly, a decimal as far as it is written: at least four significant figures."""
    exact = Fraction(facts["rational"]["numerator"], facts["rational"]["denominator"])
    above, slash, below = answer.partition("/")
    if slash:
        return number(above) == exact * number(below)
    given = number(answer)
    figures = Decimal(answer.replace(",", "").strip()).as_tuple()
    half_a_unit = Fraction(10) ** int(figures.exponent) / 2
    return given == exact or (len(figures.digits) >= 4 and abs(given - exact) <= half_a_unit)


def _same_integer(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare integers with the prefixes of Python: 0x, 0o, 0b or none."""
    return int(answer.replace("_", " "), 0) == int(gold, 0)


def _same_to(figures: int) -> Agrees:
    """Return a rule that compares numbers after rounding to so many significant figures."""
    context = Context(prec=figures, rounding=ROUND_HALF_UP)

    def agrees(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
        return context.plus(_decimal(answer)) == context.plus(_decimal(gold))

    return agrees


def _decimal(text: str) -> Decimal:
    number(text)
    return Decimal(text.strip().replace(",", ""))


def _same_factors(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare products of integers, such as 2 × 3 × 3, the factors in any order."""
    given, wanted = (sorted(number(factor) for factor in text.split("×")) for text in (answer, gold))
    return given == wanted


def _is_palindrome(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Return whether a word is a palindrome of the given letters."""
    word = answer.strip().casefold()
    return word == word[::-1] and sorted(word) == sorted(facts["letters"])


def _same_date_answer(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return _same_words(answer, gold, facts) or (gold.strip("-").isdigit() and number(answer) == number(gold))


def _same_fraction(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return _in_lowest_terms(answer) == _in_lowest_terms(gold)


def _in_lowest_terms(text: str) -> list[int]:
    match = _FRACTION.fullmatch(text.strip())
    if not match:
        raise ValueError("not a fraction")
    return [int(part) for part in match.groups() if part]


def _same_complex(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    return _complex(answer) == _complex(gold)


def _complex(text: str) -> tuple[Fraction, Fraction]:
    text = "".join(text.split()).replace("*", "")
    match = _COMPLEX.fullmatch(text[1:-1] if text.startswith("(") and text.endswith(")") else text)
    if not match or not (match["real"] or match["imaginary"]):
        raise ValueError("not a complex number")
    times = (match["imaginary"] or "0i")[:-1]
    return number(match["real"] or "0"), number(times + "1" if times in ("", "+", "-") else times)


def _same_roots(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare the roots as a multiset, each to the four decimals that the question asks for."""
    given, wanted = (sorted(number(part) for part in text.strip("\"' ").split(",") if part) for text in (answer, gold))
    return len(given) == len(wanted) and all(
        abs(one - other) < Fraction(51, 10**6) for one, other in zip(given, wanted, strict=True)
    )


def _same_coordinates(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare an angle, a radius or a point to as many decimals as the gold answer shows."""
    given, wanted = (_coordinates(text) for text in (answer, gold))
    places = max((len(part.partition(".")[2]) for part in wanted), default=0)
    near = Fraction(1, 2 * 10**places)
    return len(given) == len(wanted) and all(
        abs(number(one) - number(other)) <= near for one, other in zip(given, wanted, strict=True)
    )


def _coordinates(text: str) -> list[str]:
    text = text.strip().removesuffix("°").strip()
    inside = text[1:-1] if text.startswith("(") and text.endswith(")") else text
    return [part.strip() for part in inside.split(",")]


def _same_pool(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare matrices of numbers, each number to the two decimals that the question asks for."""
    given, wanted = lines(answer), lines(gold)
    return [len(row) for row in given] == [len(row) for row in wanted] and all(
        abs(number(one) - number(other)) < Fraction(1, 100)
        for row, right in zip(given, wanted, strict=True)
        for one, other in zip(row, right, strict=True)
    )


def _same_duration(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare "12 days", "06:09", "06:09:30.250" or "3 days, 06:09"."""
    if ":" not in gold:
        return _match(_DAYS, answer)["days"].lstrip("0") == _match(_DAYS, gold)["days"].lstrip("0")
    return _seconds(answer) == _seconds(gold)


def _seconds(text: str) -> Fraction:
    parts = {name: part or "0" for name, part in _match(_TIME, text).groupdict().items()}
    whole = ((int(parts["days"]) * 24 + int(parts["hours"])) * 60 + int(parts["minutes"])) * 60 + int(parts["seconds"])
    return whole + Fraction(f"0.{parts['fraction']}")


def _match(pattern: re.Pattern[str], text: str) -> re.Match[str]:
    match = pattern.fullmatch(text.strip())
    if not match:
        raise ValueError("not in the format asked for")
    return match


def _same_json(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare as JSON if the gold answer is JSON, else as text. true is not 1, NaN is no number."""
    try:
        wanted = _json(gold)
    except ValueError:
        return _same(answer, gold, facts)
    return _equal(_json(answer), wanted)


def _equal(given: Any, wanted: Any) -> bool:
    if isinstance(given, list) and isinstance(wanted, list):
        return len(given) == len(wanted) and all(map(_equal, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):
        return given.keys() == wanted.keys() and all(_equal(given[key], wanted[key]) for key in wanted)
    return isinstance(given, bool) is isinstance(wanted, bool) and bool(given == wanted)


def _json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    # Decimals, because floats that differ in their last digits only can be equal.
    return json.loads(text, parse_float=Decimal, parse_constant=refuse)


def _same_groups(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare lists of lists of words, in any order."""
    return _groups(answer) == _groups(gold)


def _groups(text: str) -> list[list[str]]:
    return sorted(sorted(group) for group in _lists_of_words(text))


def _same_partitions(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare a set of lists: the order within each list counts, repeats do not."""
    return sorted({tuple(part) for part in _lists_of_words(answer)}) == sorted(
        {tuple(part) for part in _lists_of_words(gold)}
    )


def _lists_of_words(text: str) -> list[list[str]]:
    value = _json(text)
    if not isinstance(value, list) or not all(isinstance(part, list) for part in value):
        raise ValueError("not a list of lists")
    if not all(isinstance(word, str) for part in value for word in part):
        raise ValueError("not lists of words")
    return value


def _same_sorted(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare lists of numbers, each possibly in quotes."""
    return _numbers(answer) == _numbers(gold)


def _numbers(text: str) -> list[Fraction]:
    value = _json(text.replace("'", '"'))
    if not isinstance(value, list) or any(isinstance(item, bool) for item in value):
        raise ValueError("not a list of numbers")
    return [number(str(item)) for item in value]


def _makes(target: Callable[[Mapping[str, Any]], float]) -> Agrees:
    """Return a rule: an expression of + - * / with every given number exactly once, and the target as its value."""

    def agrees(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
        wanted, numbers = Fraction(target(facts)), sorted(facts["numbers"])
        return sorted(expressions.integers(answer)) == numbers and expressions.exact_value(answer) == wanted

    return agrees


def _same_polynomial(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare expanded polynomials, terms in any order."""
    return expressions.polynomial(answer) == expressions.polynomial(gold)


def _is_antiderivative(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Return whether the answer's derivative is the integrand; the constant of integration may be missing."""
    return expressions.is_antiderivative(answer, facts["integrand"], facts["variable"])


def _solves_cryptarithm(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Return whether letters, each named once, stand for different digits that make the sum right."""
    pairs = [_match(_LETTER_IS_DIGIT, pair) for pair in answer.split(",")]
    digits = {pair[1]: pair[2] for pair in pairs}
    words = [*facts["words_letters"], facts["result_letters"]]
    if len(digits) < len(pairs) or set(digits) != set("".join(words)) or len(set(digits.values())) < len(digits):
        return False
    if not facts.get("allow_leading_zero", False) and any(digits[word[0]] == "0" for word in words):
        return False
    *terms, total = (int("".join(digits[letter] for letter in word)) for word in words)
    return sum(terms) == total


def _same_statements(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Compare "Ann is a knight, and Bob is a knave.", the persons in any order."""
    return _statements(answer) == _statements(gold)


def _statements(text: str) -> list[list[str]]:
    clauses = (clause.split() for clause in re.split(r"[,.]|\band\b", text.casefold()))
    return sorted([word for word in clause if word not in ("is", "a", "an")] for clause in clauses if clause)


def _is_valid_board(answer: str, gold: str, facts: Mapping[str, Any]) -> bool:
    """Return whether a board is among the solutions that the entry lists."""
    return any(lines(answer) == lines(board) for board in facts["valid_answers"])


def _rules(kind: str, agrees: Agrees, names: str, library: str = "") -> dict[str, Rule]:
    return dict.fromkeys(names.split(), Rule(agrees, kind, library))


RULES: dict[str, Rule] = {
    **_rules(
        "same",
        _same,
        "ab acre aiw arc_1d base_conversion basic_arithmetic bf binary_alternation caesar_cipher circuit_logic"
        " count_bits count_primes course_schedule emoji_mystery futoshiki gcd isomorphic_strings largest_island lcm"
        " leg_counting letter_counting list_functions mahjong_puzzle manipulate_matrix maze mini_sudoku modulo_grid"
        " number_filtering number_sequence path_star ransom_note rotate_matrix rotten_oranges self_reference"
        " simple_equations simple_geometry string_manipulation string_splitting string_synthesis sudoku syllogism"
        " word_sequence_reversal",
    ),
    **_rules("same", _same_words, "color_cube_rotation dice family_relationships sentence_reordering tsumego"),
    **_rules("same", _same_words, "zebra_puzzles"),
    **_rules("same", _same_letters, "figlet_font needle_haystack"),
    **_rules("same", _same_number, "chain_sum products decimal_chain_sum rectangle_count"),
    **_rules("same", _same_date_answer, "calendar_arithmetic"),
    **_rules("same", _same_integer, "bitwise_arithmetic"),
    **_rules("same", _same_to(3), "power_function"),
    **_rules("same", _same_factors, "prime_factorization"),
    **_rules("same", _is_palindrome, "palindrome_generation"),
    **_rules("same", _same_groups, "group_anagrams"),
    **_rules("same", _same_partitions, "palindrome_partitioning"),
    **_rules("evaluates", _same, "binary_matrix spiral_matrix string_insertion", "eval, for partial credit"),
    **_rules("evaluates", _is_valid_board, "n_queens", "eval, for partial credit"),
    **_rules("evaluates", _makes(lambda facts: float(facts["target"])), "countdown", "sympy's parse_expr"),
    **_rules("evaluates", _makes(lambda facts: 24), "puzzle24", "sympy's parse_expr; accepts any four numbers"),
    **_rules("evaluates", _same_polynomial, "polynomial_multiplication", "sympy's parse_expr; accepts a # comment"),
    **_rules(
        "evaluates",
        _is_antiderivative,
        "simple_integration intermediate_integration",
        "sympy's parse_expr; accepts a # comment",
    ),
    **_rules("accepts", _same_words, "game_of_life_halting", "any text at all"),
    **_rules("accepts", _same_probability, "coin_flip", "a prefix of the number, such as `0`; any tiny number for one"),
    **_rules("accepts", _same_number, "gsm_symbolic", "the right number first, whatever follows: `12 or 13`; `-12`"),
    **_rules("accepts", _same_number, "number_format", "numbers that are off by less than 0.01"),
    **_rules("accepts", _same_to(12), "decimal_arithmetic", "wrong digits from the seventh decimal place"),
    **_rules("accepts", _same_complex, "complex_arithmetic", "`nan`"),
    **_rules("accepts", _same_sorted, "number_sorting", "numbers that are off by 1; a list of `NaN`"),
    **_rules(
        "accepts", _same_roots, "polynomial_equations", "any words where there is no root; words between the roots"
    ),
    **_rules("accepts", _same_coordinates, "advanced_geometry", "a point with more coordinates"),
    **_rules("accepts", _same_json, "game_of_life", "further rows and columns; `true` for 1"),
    **_rules("accepts", _same_json, "codeio", "other numbers, if they are close"),
    **_rules("accepts", _same_pool, "pool_matrix", "numbers that are off by 1 %; anything behind a #"),
    **_rules("accepts", _same_duration, "time_intervals", "anything behind the number of days, or a second comma"),
    **_rules("accepts", _same_fraction, "fraction_simplification", r"anything behind a `\frac`"),
    **_rules("accepts", _same_words, "letter_jumble spell_backward", "anything behind the words"),
    **_rules("accepts", _same_list, "word_sorting", "further words behind the list"),
    **_rules("accepts", _same_statements, "knights_knaves", "any words around the statements, `not` among them"),
    **_rules("accepts", _solves_cryptarithm, "cryptarithm", "a letter with two digits, of which the last counts"),
    **_rules("accepts", _same, "survo", "words between the numbers"),
    **_rules("refuses", _same, "arc_agi rearc", "the gold answer's own grid"),
}
"""Task → our rule."""

_WORDS = r'\s*\[\s*"[^"\\]*"(?:\s*,\s*"[^"\\]*")*\s*\]\s*'
FORMATS: dict[str, re.Pattern[str]] = {
    "jugs": re.compile(_WORDS),
    "knight_swap": re.compile(rf"\s*no\s*|{_WORDS}", re.IGNORECASE),
    "shortest_path": re.compile(r"\s*(?:up|down|left|right)(?:\s+(?:up|down|left|right))*\s*"),
    "word_ladder": re.compile(r"\s*[A-Za-z]+(?:\s*,\s*[A-Za-z]+)*\s*"),
    "kakurasu": re.compile(r"[01\s]+", re.A),
    "quantum_lock": re.compile(r"\s*[A-Ca-c](?:[\s,→>-]*[A-Ca-c])*\s*", re.A),
    "sokoban": re.compile(r"\s*[LRUD]+\s*", re.A),
    "tower_of_hanoi": re.compile(r"\s*(?:Move disk \d+ from Peg \d+ to Peg \d+\s*)+", re.A),
}
"""Task → the form of a whole answer, without which the library is not asked: some scorers accept words around it."""

WITHOUT_GOLD = ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour")
"""Tasks without a gold answer: many answers are right, and their entries hold none to check the scorer with."""
