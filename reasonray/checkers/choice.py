"""A choice of up to ten options: its letter (`B`, `(B)`, `option B`, `B. London`) or its text.

`metadata["options"]` gives the texts: a list (the first is A) or a mapping of letters to texts. A letter next to the
text of another option is wrong, and so is more than one letter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from reasonray.checkers import notation
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.text_answer import normalised
from reasonray.records import Outcome, Problem

_LETTERS = "ABCDEFGHIJ"
_PREFIX = re.compile(r"(?:the )?(?:correct )?(?:option|choice|answer|letter)\s*:?\s*(?=\(?[A-Ja-j]\b)", re.IGNORECASE)
_BARE = re.compile(r"[(\[]?([A-Ja-j])[)\]]?[.:]?")
_MARKED = re.compile(r"(?:[(\[]([A-Ja-j])[)\]][.:]?|([A-Ja-j])[).:])\s*(?P<text>\S.*)", re.DOTALL)
_GLOSSED = re.compile(r"([A-J])(?:,\s+|\s*\()(?P<text>[^()]+)\)?")
_REASON = re.compile(r"[(\[]?([A-J])[)\]]?,?\s+(?:because|since|as|which|so|is (?:correct|right)|-|–|—)", re.DOTALL)
_SECOND = re.compile(r"\b(?:or|and|nor|not)\b|[,/&]\s*\(?[A-J]\b")

_OTHER = re.compile(r"[(\[][A-J][)\]]|\b(?:or|and|nor|not) [A-J]\b")


class Choice(Checker):
    """Judges whether an answer chooses the gold answer's option."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why the gold answer names no option, or None if it names one."""
        given = problem.metadata.get("options")
        if given is not None and not (isinstance(given, list | tuple | Mapping) and 2 <= len(given) <= len(_LETTERS)):
            return f"options must be 2 to {len(_LETTERS)} texts"
        options = _options(problem)
        if not set(options) <= set(_LETTERS):
            return "options must go by the letters A to J"
        if len(set(map(normalised, options.values()))) < len(options):
            return "two options have the same text"
        return None if _gold(problem, options) else "the gold answer is none of the options"

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Judge which option an answer chooses."""
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        options = _options(problem)
        chosen = _chosen(answer, options)
        if chosen is None:
            return Finding(Outcome.WRONG, "chooses no single option")
        return Finding(Outcome.CORRECT if chosen == _gold(problem, options) else Outcome.WRONG, f"option {chosen}")

    fast = compare


def _options(problem: Problem) -> dict[str, str]:
    given = problem.metadata.get("options") or ()
    pairs = given.items() if isinstance(given, Mapping) else zip(_LETTERS, given, strict=False)
    return {str(letter).strip().upper(): str(text) for letter, text in pairs}


def _gold(problem: Problem, options: dict[str, str]) -> str | None:
    text = _plain(problem.answer or "")
    if bare := _BARE.fullmatch(text):
        letter = bare[1].upper()
        if not options or letter in options:
            return letter
    return _by_text(text, options)


def _chosen(answer: str, options: dict[str, str]) -> str | None:
    text = _plain(answer)
    if prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    if bare := _BARE.fullmatch(text):
        return bare[1].upper()
    if by_text := _by_text(text, options):
        return by_text
    if marked := _MARKED.fullmatch(text):
        letter = (marked[1] or marked[2]).upper()
        return letter if _agrees(marked["text"], letter, options) else None
    if options and (glossed := _GLOSSED.fullmatch(text)):
        return glossed[1] if _agrees(glossed["text"], glossed[1], options) else None
    reason = _REASON.match(text)
    return reason[1] if reason and not _SECOND.search(text[reason.start(1) + 1 : reason.end()]) else None


def _by_text(text: str, options: dict[str, str]) -> str | None:
    wanted = normalised(text)
    return next((letter for letter, option in options.items() if wanted and normalised(_plain(option)) == wanted), None)


def _agrees(text: str, letter: str, options: dict[str, str]) -> bool:
    """Return whether the text after a letter is its option's, maybe with a reason; without options, names no other."""
    if not options:
        return not _SECOND.match(text) and not _OTHER.search(text)
    stated, wanted = normalised(text), normalised(_plain(options.get(letter, "")))
    reason = r"\s*,?\s*(?:because|since|as|which)\b"
    return bool(wanted) and (stated == wanted or re.match(re.escape(wanted) + reason, stated) is not None)


def _plain(text: str) -> str:
    return notation.flat(notation.tidy(text)).replace("$", "").strip(" *_")
