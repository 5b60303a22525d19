"""Mathematical equality: a fast path for plain numbers and words, then a grammar and comparison step by step.

An answer is compared whole or not at all: what the grammar does not account for, token by token, is compared as text
alone (mathematics/parser.py). The detail of a verdict names the step that decided.

`metadata["ordered"] = true` makes the order and the repeats of a bare list count. `metadata["number_format"]` is
"decimal_comma" where golds and answers write `1.234,56`, "indian" where they write `1,00,000`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from reasonray.answers import ExtractedAnswer
from reasonray.checkers import notation, numbers
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.mathematics import Comparison, Tree, Unreadable, measured, named_value, parse, real_constant
from reasonray.records import Outcome, Problem

_MAX_CHARACTERS = 4000
_LIST = re.compile(r",|;|\\pm|\\cup|\band\b|\bor\b")
_LEADS = ("answer is", "answer is:", "answer:", "####")
"""What may come before a gold answer in sentences, of which the rules find a part: the first, or the end of it."""
_SENTENCE = re.compile(r"[A-Za-z]{2,} |[.?!]\s|\n")
_NUMBER_FORMATS = ("decimal_comma", "indian")
_OPTION = re.compile(r"\(?([A-J])[).:]\s*(?!(?:or|and|not|nor|but)\b)(?!.*\b[A-J][).:])\S.*", re.DOTALL)
_LETTERS = re.compile(r"[A-Za-z]+(?:(?:[ '-]|\s*[,;&]\s*)+[A-Za-z]+)*")
_PRODUCT = re.compile(r"[a-hj-np-z]{2}|(?=.*[xyz])[a-hj-np-z]{3}")
_BASED = re.compile(r"([0-9A-Za-z]*[A-Za-z][0-9A-Za-z]*)_\{?(\d{1,2})\}?")
_INCOMPLETE = re.compile(r"\\begin\s?\{(\w+)\*?\}|\\end\s?\{(\w+)\*?\}")


class MathAnswer(Checker):
    """Judges whether an answer equals the problem's gold answer."""

    has_independent_rules = True

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why no answer can be compared with a problem's gold answer, or None if answers can be."""
        if (number_format := problem.metadata.get("number_format", "")) not in ("", *_NUMBER_FORMATS):
            return f"number_format is {number_format!r}; it must be one of {', '.join(_NUMBER_FORMATS)}"
        gold = problem.answer or ""
        return None if numbers.read(gold) or notation.words(gold) else _fault(gold)

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the final answer of a response; a gold answer in sentences is found whole."""
        found = super().extract(problem, response)
        gold = problem.answer or ""
        if found and gold.isalnum():
            return found
        in_sentences = bool(_SENTENCE.search(gold))
        if not gold.strip() or (found and not in_sentences):
            return found
        gold, text = _one_line(gold), _one_line(response[-2 * len(gold) - 100 :])
        lead = text[: -len(gold)].rstrip("$* ")
        is_part = found is None or _one_line(found.text) in gold
        if text == gold or (in_sentences and is_part and text.endswith(gold) and lead.endswith(_LEADS)):
            return ExtractedAnswer(problem.answer or "", "whole gold answer", True)
        return found

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Decide what needs no algebra: numbers, the same notation, words."""
        gold = problem.answer or ""
        if not problem.metadata.get("number_format") and (finding := numbers.compare(gold, answer)):
            return finding
        if len(answer) > max(_MAX_CHARACTERS, 4 * len(gold)):
            return Finding(Outcome.WRONG, "far longer than the gold answer") if notation.balanced(gold) else None
        wanted = notation.squeezed(gold)
        if wanted and wanted == notation.squeezed(answer) and any(character.isalnum() for character in wanted):
            return Finding(Outcome.CORRECT, "same notation")
        return _same_digits(gold, answer) or _same_words(gold, answer)

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Compare by the grammar alone."""
        gold = problem.answer or ""
        if reason := self.unverifiable(problem) or _fault(gold):
            return Finding(Outcome.UNVERIFIABLE, reason)
        if _text(gold) == _text(answer):
            return Finding(Outcome.CORRECT, "same text")
        if finding := _same_letters(gold, answer):
            return finding
        number_format = str(problem.metadata.get("number_format", ""))
        try:
            wanted = parse(gold, number_format, is_lenient=True)
        except Unreadable as fault:
            return Finding(Outcome.WRONG, f"another text; the gold answer is no formula: {fault}", is_undecided=True)
        try:
            given = parse(answer, number_format)
        except Unreadable as fault:
            return Finding(Outcome.WRONG, f"the answer cannot be read: {fault}", is_undecided=True)
        return _finding(wanted, given, problem.metadata.get("ordered") is True)

    def combine(self, problem: Problem, boxes: tuple[str, ...]) -> str | None:
        """Return several boxed answers as one list where the gold answer is a list, else None."""
        return ", ".join(boxes) if _LIST.search(notation.tidy(problem.answer or "")) else None


def value_of(formula: str) -> numbers.Number | None:
    """Return the value that a text states to 60 digits, or None if it states no finite real number."""
    try:
        stated = named_value(parse(formula))
    except Unreadable:
        return None
    tree, unit = measured(stated) if stated else (None, "")
    value = real_constant(tree) if tree else None
    return None if value is None else numbers.Number(Fraction(str(value)), percent=unit == "%", unit=unit.strip("%"))


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _finding(wanted: Tree, given: Tree, is_ordered: bool) -> Finding:
    comparison = Comparison(is_ordered)
    decision = comparison.same(wanted, given)
    step = ", ".join(comparison.steps) or "no step applies"
    if decision is None:
        return Finding(Outcome.WRONG, f"undecided: {step}", is_undecided=True)
    return Finding(Outcome.CORRECT if decision else Outcome.WRONG, step)


def _fault(gold: str) -> str | None:
    """Return why a gold answer is no answer: empty, or cut in the middle."""
    text = notation.tidy(gold)
    if not any(character.isalnum() for character in text.replace("boxed", "")):
        return None if _is_symbol(text) else "the gold answer is empty"
    if not notation.balanced(text):
        return "the braces of the gold answer do not balance"
    open_blocks = sum(1 if block[1] else -1 for block in _INCOMPLETE.finditer(text))
    return "an environment of the gold answer is not closed" if open_blocks else None


def _is_symbol(text: str) -> bool:
    """Return whether a text without letters and digits is an answer all the same: a set without elements."""
    return "".join(text.split()) in (r"\{\}", "{}", "∅")


def _same_digits(gold: str, answer: str) -> Finding | None:
    """Compare numerals with letters for digits, such as 2A_{16}; an answer may leave out the base."""
    wanted, given = _BASED.fullmatch(_plain(gold)), _BASED.fullmatch(_plain(answer))
    if not wanted or not wanted[1][0].isdigit():
        return None
    if given or _plain(answer).isalnum():
        digits, base = (given[1], given[2]) if given else (_plain(answer), wanted[2])
        is_same = (wanted[1].casefold(), wanted[2]) == (digits.casefold(), base)
        return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, "numerals of a base")
    return None


def _same_words(gold: str, answer: str) -> Finding | None:
    wanted = notation.words(gold)
    short = notation.words(notation.without_tail(answer)) if wanted else None
    given = notation.words(answer) or short if wanted else None
    if not wanted or not given:
        return None
    if wanted in (given, short):
        return Finding(Outcome.CORRECT, "words")
    return None


def _same_letters(gold: str, answer: str) -> Finding | None:
    """Compare answers of nothing but letters: words in any case, lists in any order. Letters do not commute."""
    wanted, given = _plain(gold), _plain(answer)
    if len(wanted.strip("()")) == 1 and wanted.strip("()") in "ABCDEFGHIJ" and (option := _OPTION.fullmatch(given)):
        return Finding(Outcome.CORRECT if option[1] == wanted.strip("()") else Outcome.WRONG, "an option's letter")
    if any("(" in text and "," in text for text in (wanted, given)):
        return None  # a tuple, whose order counts
    wanted, given = wanted.strip("(). "), given.strip("(). ")
    if not (_LETTERS.fullmatch(wanted) and _LETTERS.fullmatch(given)):
        return None
    if len(wanted) == len(given) == 1 and not (wanted in "ABCDEFGHIJ" or given in "ABCDEFGHIJ"):
        return Finding(Outcome.CORRECT if wanted == given else Outcome.WRONG, "letters")
    names = notation.phrase(wanted), notation.phrase(given)
    if all(names):
        return Finding(Outcome.CORRECT if names[0] == names[1] else Outcome.WRONG, "words")
    lists = [_word_list(text) for text in (wanted, given)]
    if lists[0] == lists[1]:
        return Finding(Outcome.CORRECT, "words")
    if any(names) or all(_PRODUCT.fullmatch(text) for text in (wanted, given)):
        return None
    letters = [text if all(len(word) == 1 for word in text) else list("".join(text)) for text in lists]
    is_run = [len(text) == 1 for text in lists]
    if is_run[0] != is_run[1] and all(
        len(word) == 1 for text, run in zip(lists, is_run, strict=True) if not run for word in text
    ):
        return Finding(Outcome.CORRECT if sorted(letters[0]) == sorted(letters[1]) else Outcome.WRONG, "letters")
    return Finding(Outcome.WRONG, "words")


def _text(text: str) -> str:
    """Return a text with single spaces and its words in one case; a letter alone may be a variable."""
    return re.sub(r"(?<![A-Za-z\\])[A-Za-z]{2,}", lambda word: word.group().casefold(), _plain(text)).strip(" .")


def _word_list(text: str) -> list[str]:
    return sorted(" ".join(part.split()) for part in re.split(r"[,;&]|\band\b|\bor\b", text.casefold()) if part.strip())


def _plain(text: str) -> str:
    return " ".join(notation.flat(notation.tidy(text)).replace("$", " ").split())
