"""Typesetting around an answer, the end of its sentence, and whether a text is a formula, a few words or prose."""

from __future__ import annotations

import re

_EMPHASIS = re.compile(r"\*\*([^*\n]{1,200})\*\*")
DISPLAYS = {"$$": "$$", r"\[": r"\]"}
_DELIMITERS = {
    "$": (("$$", "$$"), ("$", "$")),
    "\\": ((r"\[", r"\]"), (r"\(", r"\)")),
    **{opening: ((opening, closing),) for opening, closing in ('""', "“”", "「」", "«»")},
}
_MAX_DELIMITERS = 3

_SENTENCE_END = re.compile(
    r"[.?](?=[\s*_`\"')<]|$)|!(?=\s*$|\s+[A-Z]|[*_`\"')])|[。！？]|[，；](?=[^\W\d_A-Za-z或和]|$)"
)
_ABBREVIATED = re.compile(
    r"(?:^|[\s(\"*])(?:St|Ste|Mt|Ft|Dr|Mr|Mrs|Ms|Prof|Rev|Gen|Capt|Lt|Sgt|Gov|Sen|Hon|vs|approx|ca|cf"
    r"|(?P<counted>Rs|Fig|Eq|Vol|Nos)|(?:[A-Za-z]\.){1,3}[A-Za-z]|(?P<initial>[A-Z]))$"
)
_NAME_GOES_ON = re.compile(r"\s(?:[A-Z]\.|[A-Z][\w'’-]+(?=\s*[.,;!?*)\"]*\s*$|[.,;]\s|\s[A-Z]))")
_OPENER = re.compile(
    r"\s+(?:The|This|That|These|Those|There|Therefore|Thus|So|Hence|It|Its|We|I|If|Note|Because|Since|As|For|From|In|On"
    r"|Let|Options?|Choices?|Answers?|However|Here|Now|And|But|An?|To|My|Our|Not|No|Yes|All|Both|Each|Also|Finally"
    r"|Check|Checking|Hope|Explanation|Reason|Verification|Wait|Hmm|Oh|Actually|Please|Final|Thanks|Done|Or|When|Where"
    r"|While|With|By|You|He|She|They|What|Why|How|Only|Other|Others|Indeed|First|Second|Substituting|Step)\b"
)
_MAX_ABBREVIATIONS = 8
"""The full stops in a sentence that are examined for being part of a name."""

MATH = re.compile(r"\$\$?[^$]{1,2000}\$\$?|\\\(.{1,2000}?\\\)|\\\[.{1,2000}?\\\]", re.DOTALL)
_COMMAND = re.compile(r"\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{2,}(?:['’][^\W\d_]+)?")
_PROSE = (
    "we you it is are was were be been so that this these there have has had can cannot can't could would should do"
    " does don't did not let because since then if first know sorry please think need will here unable they he she"
    " what which who therefore thus hence step but wait let's i'm it's that's isn't next now"
)
_PROSE_WORDS = frozenset(_PROSE.split())
_VALUES = frozenset({"yes", "no", "true", "false", "odd", "even", "none", "zero", "infinity", "undefined", "dne"})
_MAX_WORDS = 6
_MAX_CHARACTERS = 400


def strip_markup(text: str) -> str:
    """Return an answer without its typesetting: emphasis, math delimiters, quotes, a final full stop."""
    text = _EMPHASIS.sub(r"\1", text) if "**" in text else text
    text = text.strip().strip("*_`").strip()
    for _ in range(_MAX_DELIMITERS):
        pairs = _DELIMITERS.get(text[:1])
        if pairs is None or (inside := _inside(text, pairs)) is None:
            break
        text = inside
    return text.rstrip(".。").strip()


def _inside(text: str, pairs: tuple[tuple[str, str], ...]) -> str | None:
    """Return the text between delimiters that surround it, or None if none do."""
    for opening, closing in pairs:
        inside = text[len(opening) : -len(closing)]
        if text.startswith(opening) and text.endswith(closing) and inside and opening not in inside:
            return inside.strip()
    return None


def sentence_end(line: str) -> re.Match[str] | None:
    """Return the mark that ends the first sentence of a line; a full stop inside a name or an abbreviation does not."""
    stop = _SENTENCE_END.search(line)
    if stop is None or stop.end() == len(line) or stop.group() != ".":
        return stop
    for number, stop in enumerate(_SENTENCE_END.finditer(line)):
        if number >= _MAX_ABBREVIATIONS or not (stop.group() == "." and _is_inside_name(line, stop)):
            return stop
    return None


def is_formula(text: str) -> bool:
    """Return whether a text is a value: a formula, a number with a unit, a letter, or a word such as "yes"."""
    text = strip_markup(text)
    if not text or len(text) > _MAX_CHARACTERS:
        return False
    outside = _COMMAND.sub(" ", MATH.sub(" ", text))
    words = [word.casefold() for word in _WORD.findall(outside)]
    if len(words) > _MAX_WORDS or not _PROSE_WORDS.isdisjoint(words):
        return False
    return text.casefold() in _VALUES or len(words) < 1 or any(map(str.isdigit, text)) or outside != text


def is_words(text: str) -> bool:
    """Return whether a text is a value or a few words on one line, and no sentence."""
    text = strip_markup(text)
    words = [word.casefold() for word in _WORD.findall(text)]
    is_short = 0 < len(words) <= _MAX_WORDS and "\n" not in text and len(text) <= _MAX_CHARACTERS
    return is_formula(text) or (is_short and _PROSE_WORDS.isdisjoint(words) and not text.startswith("I "))


def _is_inside_name(line: str, stop: re.Match[str]) -> bool:
    before = _ABBREVIATED.search(line, max(0, stop.start() - 16), stop.start())
    if not before or not line[stop.end() :].strip(" *_`\"')") or _OPENER.match(line, stop.end()):
        return False
    if before["counted"]:
        return line[stop.end() :].lstrip()[:1].isdigit()
    return not before["initial"] or _NAME_GOES_ON.match(line, stop.end()) is not None
