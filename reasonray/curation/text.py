"""Words of a text, independent of its case, its markup and its script."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "copy_key",
    "keyboard_operators",
    "normalised_words",
    "segment_words",
    "split_words",
    "strip_markup",
    "strip_thousands",
]

_OPERATORS = str.maketrans({"−": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/"})
_TIMES, _OVER = re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), re.compile(r"\\div(?![a-z])")
_THOUSANDS = re.compile(r"(?:,(?<=\d,)|\{,\}(?<=\d\{,\}))(?=\d{3}(?!\d))")
_MARKUP = re.compile(
    r"\\(?:text|mathrm|mathbf|left|right|boxed|displaystyle|quad)(?![a-z])|[${}\\]|\*\*+|--+"
    r"|-(?:(?<=[^\W\d_]{2}-)(?=[^\W\d_])|(?<=[^\W\d_]-)(?=[^\W\d_]{2}))"
)
"""Markup that carries no words: LaTeX for layout, bold, rules, and hyphens within words."""
_WORD = re.compile(r"[^\W_]+|[+\-*/=^<>%]")
_MARKS = "".join(mark for mark in map(chr, range(0x300, 0x2000)) if unicodedata.category(mark).startswith("M"))
_MARKED_WORD = re.compile(rf"[^\W_]+(?:[{_MARKS}]+[^\W_]*)*|[+\-*/=^<>%]")
_IDEOGRAPHS = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_UNSPACED = re.compile(f"[{_IDEOGRAPHS}{_SPACELESS}]")
_OTHER_SCRIPT = re.compile(f"[\u0300-\u1fff{_IDEOGRAPHS}]")
_BORDER = re.compile(f"(?<=[{_IDEOGRAPHS}])|(?=[{_IDEOGRAPHS}])|(?<=[{_MARKS}])(?![{_MARKS}])(?=[{_SPACELESS}])")
"""Borders of words that no space marks: each Chinese or Japanese character is a word; in Thai, Lao, Burmese and Khmer a
word ends after a letter's marks, which come every few letters and in copies at the same places."""


def normalised_words(text: str) -> list[str]:
    """Return the words of a text without case, punctuation and LaTeX markup; numbers and operators stay.

    Chinese and Japanese characters are words of their own.
    """
    return split_words(strip_markup(text))


def split_words(stripped: str) -> list[str]:
    """Return the words of a text that `strip_markup` returned."""
    # Latin letters have no marks of their own, and are most of what there is to read.
    if stripped.isascii() or not _OTHER_SCRIPT.search(stripped):
        return _WORD.findall(stripped)
    return _MARKED_WORD.findall(segment_words(stripped))


def copy_key(stripped: str) -> str:
    """Return a key that copies of a text share, from what `strip_markup` returned.

    It holds more than the words, because "7" and "7!" are two problems.
    """
    return " ".join(stripped.split()).rstrip(" .:?")


def segment_words(text: str) -> str:
    """Return a text with spaces between words in scripts without spaces, in Chinese and Japanese between characters."""
    return _BORDER.sub(" ", text) if _UNSPACED.search(text) else text


def strip_markup(text: str) -> str:
    """Return a text in one case and with one form of each operator, without LaTeX markup and thousands separators."""
    plain = keyboard_operators(unicodedata.normalize("NFKC", text).casefold())
    return _MARKUP.sub(" ", strip_thousands(plain))


def keyboard_operators(text: str) -> str:
    """Return a text with the operators of a keyboard (+ - * /) for those of typesetting and LaTeX."""
    plain = text.translate(_OPERATORS)
    return _OVER.sub("/", _TIMES.sub("*", plain)) if "\\" in plain else plain


def strip_thousands(text: str) -> str:
    """Return a text without separators of thousands, LaTeX's included."""
    return _THOUSANDS.sub("", text)
