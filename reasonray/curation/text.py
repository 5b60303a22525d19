"""What the words of a text are, whatever its case, its dress and its script."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["copied", "normalised", "parted", "undressed", "with_plain_signs", "without_thousands", "words"]

_SIGNS = str.maketrans({"−": "-", "×": "*", "·": "*", "⋅": "*", "∗": "*", "÷": "/"})
_TIMES, _OVER = re.compile(r"\\(?:times|cdot|ast)(?![a-z])"), re.compile(r"\\div(?![a-z])")
_THOUSANDS = re.compile(r"(?:,(?<=\d,)|\{,\}(?<=\d\{,\}))(?=\d{3}(?!\d))")
_MARKUP = re.compile(
    r"\\(?:text|mathrm|mathbf|left|right|boxed|displaystyle|quad)(?![a-z])|[${}\\]|\*\*+|--+"
    r"|-(?:(?<=[^\W\d_]{2}-)(?=[^\W\d_])|(?<=[^\W\d_]-)(?=[^\W\d_]{2}))"
)
"""What a text is dressed in: LaTeX that says nothing, bold, rules and hyphens."""
_WORD = re.compile(r"[^\W_]+|[+\-*/=^<>%]")
_MARKS = "".join(it for it in map(chr, range(0x300, 0x2000)) if unicodedata.category(it).startswith("M"))
_MARKED_WORD = re.compile(rf"[^\W_]+(?:[{_MARKS}]+[^\W_]*)*|[+\-*/=^<>%]")
_IDEOGRAPHS = "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_SPACELESS = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_UNSPACED = re.compile(f"[{_IDEOGRAPHS}{_SPACELESS}]")
_OTHER_SCRIPT = re.compile(f"[\u0300-\u1fff{_IDEOGRAPHS}]")
_BORDER = re.compile(f"(?<=[{_IDEOGRAPHS}])|(?=[{_IDEOGRAPHS}])|(?<=[{_MARKS}])(?![{_MARKS}])(?=[{_SPACELESS}])")
"""Where words part that no space parts: at every Chinese and Japanese character; in Thai, Lao, Burmese and Khmer after
a letter's marks, which come every few letters and in copies at the same places."""


def normalised(text: str) -> list[str]:
    """Return the words of a text, whatever their case, punctuation and LaTeX dress; numbers and signs stay.

    Chinese and Japanese characters are words of their own.
    """
    return words(undressed(text))


def words(plain: str) -> list[str]:
    """Return the words of a text that `undressed` gave."""
    # Latin letters have no marks of their own, and are most of what there is to read.
    if plain.isascii() or not _OTHER_SCRIPT.search(plain):
        return _WORD.findall(plain)
    return _MARKED_WORD.findall(parted(plain))


def copied(plain: str) -> str:
    """Return what copies of a text that `undressed` gave share: more than words, for "7" and "7!" are two problems."""
    return " ".join(plain.split()).rstrip(" .:?")


def parted(text: str) -> str:
    """Return a text with a space between words of scripts that set none; characters, in Chinese and Japanese."""
    return _BORDER.sub(" ", text) if _UNSPACED.search(text) else text


def undressed(text: str) -> str:
    """Return a text of one case and one form of each sign, without LaTeX dress and thousands separators."""
    plain = with_plain_signs(unicodedata.normalize("NFKC", text).casefold())
    return _MARKUP.sub(" ", without_thousands(plain))


def with_plain_signs(text: str) -> str:
    """Return a text whose signs of arithmetic are those of a keyboard."""
    plain = text.translate(_SIGNS)
    return _OVER.sub("/", _TIMES.sub("*", plain)) if "\\" in plain else plain


def without_thousands(text: str) -> str:
    """Return a text without separators of thousands, LaTeX's included."""
    return _THOUSANDS.sub("", text)
