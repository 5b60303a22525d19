"""Numbers in English words: cardinals, simple fractions, ordinals with digits."""
# ruff: noqa: SIM905

from __future__ import annotations

import re
from fractions import Fraction

_SMALL = {
    name: value
    for value, name in enumerate(
        (
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
            " seventeen eighteen nineteen"
        ).split()
    )
}
_TENS = {name: 10 * (2 + at) for at, name in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split())}
_LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
_PARTS = "half third quarter fifth sixth seventh eighth ninth tenth".split()
_UNDER = {name: under for under, name in enumerate(_PARTS, 2)} | {"halves": 2, "fourth": 4}
_ORDINALS = {
    name: value
    for value, name in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(), 1
    )
}
_START = re.compile(
    rf"(?:{'|'.join((*_SMALL, *_TENS, 'an?', 'half', *_ORDINALS))})\b|\d+(?:st|nd|rd|th)$", re.IGNORECASE
)
_WORD = re.compile(r"([A-Za-z]+)(?:[\s-]+|$)")


def in_digits(text: str) -> str:
    """Return a text with the number that it begins with in digits: "twenty-one men" → "21 men".

    An ordinal counts only where it is all of the text. A text that begins with no number is returned as it is.
    """
    if not _START.match(text):
        return text
    if ordinal := re.fullmatch(r"(\d+)(?:st|nd|rd|th)", text):
        return ordinal[1]
    if text.casefold() in _ORDINALS:
        return str(_ORDINALS[text.casefold()])
    words, ends = _words(text)
    total = group = used = 0
    for at, word in enumerate(words):
        if word in _SMALL or word in _TENS:
            if at and not _continues(words[at - 1], word):
                break
            group += _SMALL.get(word, 0) or _TENS.get(word, 0)
        elif word == "hundred" and at and 0 < group < 10:
            group *= 100
        elif word in ("hundred", *_LARGE) and not at:
            break
        elif word in _LARGE and group:
            total, group = total + group * _LARGE[word], 0
        elif (
            word == "and"
            and at
            and words[at - 1] == "hundred"
            and at + 1 < len(words)
            and words[at + 1] in (*_SMALL, *_TENS)
        ):
            continue
        else:
            break
        used = at + 1
    return _with_part(text, words, ends, used, total + group)


def _words(text: str) -> tuple[list[str], list[int]]:
    words, ends, at = [], [], 0
    while match := _WORD.match(text, at):
        words.append(match[1].casefold())
        ends.append(match.end(1))
        at = match.end()
    return words, ends


def _continues(before: str, word: str) -> bool:
    if before in _TENS:
        return 0 < _SMALL.get(word, 0) < 10
    return before in ("hundred", "and", *_LARGE)


def _with_part(text: str, words: list[str], ends: list[int], used: int, value: int) -> str:
    """Return the text with its number in digits, "two thirds" as a fraction, "a half" too."""
    if not used and words[:1] in (["a"], ["an"], ["one"]) and len(words) > 1:
        used, value = 1, 1
    elif not used and words[:1] == ["half"] and len(words) == 1:
        return "1/2"
    part = words[used] if used < len(words) else ""
    under = _UNDER.get(part) or _UNDER.get(part.removesuffix("s"))
    if used and under and len(words) == used + 1:
        return str(Fraction(value, under)) + text[ends[used] :]
    if not used or words[0] in ("a", "an"):
        return text
    return str(value) + text[ends[used - 1] :]
