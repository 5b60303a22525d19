"""A choice of up to ten options: its letter (`B`, `(B)`, `option B`, `B. London`) or its text.

`metadata["options"]` gives the texts: a list (the first is A), a mapping of letters to texts, or one text
(`A) … B) …`). A gold answer of several letters (`A, C`) asks for exactly these. The text next to a letter may be
shorter or longer than the option's, or the same value in another notation; one that fits another option better is
wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from reasonray.answers import Candidate, ExtractedAnswer, final_answer
from reasonray.checkers import math_answer, notation, numbers
from reasonray.checkers.checker import Checker, Finding
from reasonray.checkers.text_answer import normalised
from reasonray.records import Outcome, Problem

_LETTERS = "ABCDEFGHIJ"
_PREFIX = re.compile(
    r"(?:that )?(?:the )?(?:correct |right |best )?(?:options?|choices?|answers?|letters?|选项|選項|보기|опция|вариант)"
    r"(?: is| are)?\s*:?\s*(?=\(?[A-Ja-j]\b)",
    re.IGNORECASE,
)
_BARE = re.compile(r"[(\[（]?([A-Ja-j])[)\]）]?[.:：]?")
_MARKED = re.compile(
    r"(?:[(\[（]([A-Ja-j])[)\]）][.:：]?|([A-Ja-j])(?:[).:：）]|\s+[-–—](?=\s)))\s*(?P<text>\S.*)", re.DOTALL
)
_GLOSSED = re.compile(r"([A-J])(?:,\s+|\s*\()(?P<text>[^()]+)\)?")
_LETTER_LAST = re.compile(
    r"(?P<text>.+?)(?:,? (?:option|choice) \(?([A-J])\)?|,? ?\((?:option |choice )?([A-J])\))",
    re.IGNORECASE | re.DOTALL,
)
_REASON = re.compile(
    r"[(\[]?([A-J])[)\]]?,?\s+(?:because|since|as|which|so|is (?:the )?(?:correct|right|best)|-|–|—)", re.DOTALL
)
_RULES_OUT = re.compile(
    r"[(\[]?([A-J])[)\]]?(?:[.,;:。，]\s*|\s+|(?=不))(?:but |and |as )?(?:it |this |that )?"
    r"(?:not\b|non\b|nicht\b|can['’]?t be\b|cannot be\b|isn['’]t\b|doesn['’]t\b|rather than\b|instead of\b|而?不是).*",
    re.DOTALL,
)
_SURE = re.compile(
    r"(?:for sure|definitely|clearly|certainly|surely|most likely|indeed|simply)\b[\s,:]*"
    r"|(?:la|el|le|die|der|het|de)\s+(?:opción |option )?(?=\(?(?-i:[A-J])\b)",
    re.IGNORECASE,
)
_SEVERAL = re.compile(
    r"(?:both )?[(\[]?[A-J][)\]]?(?:(?:\s*[,;/&+、，]\s*(?:and )?|\s+and\s+|\s*[和及]\s*)[(\[]?[A-J][)\]]?)+"
)
_SPACED = re.compile(r"[A-J](?: [A-J])+")
_JOINED = re.compile(r"[A-J]{2,10}")
_SECOND = re.compile(r"\b(?:or|and|nor|not)\b|[,/&]\s*\(?[A-J]\b")
_OTHER = re.compile(r"[(\[]([A-J])[)\]]|\b(?:or|and|nor|not|but) \(?([A-J])\b(?!\w)")
_INITIAL = re.compile(r"[A-Z]\.(?:\s|[A-Z])")
_DENIED = re.compile(r"(?:not|nor|neither|or|and|but)\b")
_OPTION = re.compile(r"(?:^|\s)[(\[]?([A-J])[).\]:]\s*")
_WORD = re.compile(r"\w+")
_FIRST_WORDS = 3
"""The spaces in the beginning of an option that stands for the whole."""

_I_CHOOSE = re.compile(
    r"\b(?:i|we)(?:'d| would| will|'ll|’ll)? (?:choose|chose|pick|select|go with|opt for)\*{0,2}(?: the)?"
    r"(?: (?:option|choice|answer|letter))?[\s*:(]{1,4}(?P<letter>(?-i:[A-J]{1,5}))\b(?!['’])(?!\s+\w+\s+and\b)",
    re.IGNORECASE,
)
_IT_IS = re.compile(
    r"\b(?:think|so|therefore|thus|hence|believe),? (?:that )?(?:it['’]s|it is|it must be|that['’]s) "
    r"\(?(?P<letter>[A-J])\)?\*{0,2}(?=\s*(?:[.,!\n]|$))",
    re.IGNORECASE,
)
_IS_CORRECT = re.compile(
    r"(?:^|[\s*(])(?P<letter>[A-J])[)*.]{0,3}(?:,? ?\([^()\n]{1,80}\)?,?)? is "
    r"(?:indeed |therefore |thus )?(?:the )?(?:most )?"
    r"(?:correct|right|best)(?: (?:answer|option|choice|one))?(?=\*{0,2}\s*(?:[.,!\n]|$|because|since|as))"
)
_ELSEWHERE = re.compile(
    r"(?:(?:故|应|應|应该)?(?:选择|选|選)(?!项|項)|正[确確]的?(?:选项|選項)(?:应?[是为為]|[:：])|(?:选项|選項)(?=[A-J]\s?是?正[确確]))"
    r"[*\s:：]{0,4}[(（]?(?P<letter>[A-J]{1,5})(?![A-Za-z])"
)
_ALONE = re.compile(r"(?:^|\n)\s*[*_#]*\s*(?:Option |Choice )?[(\[]?(?P<letter>[A-J])[)\]]?[.:]?[*_]*\s*$")


class Choice(Checker):
    """Judges whether an answer chooses the gold answer's option."""

    def unverifiable(self, problem: Problem) -> str | None:
        """Return why the gold answer names no option, or None if it names one."""
        given = problem.metadata.get("options")
        options = _options(problem)
        if given is not None and not 2 <= len(options) <= len(_LETTERS):
            return f"options must be 2 to {len(_LETTERS)} texts"
        if not set(options) <= set(_LETTERS):
            return "options must go by the letters A to J"
        if len(set(map(normalised, options.values()))) < len(options) and not _BARE.fullmatch(
            _plain(problem.answer or "")
        ):
            return "two options have the same text"
        if _is_ambiguous(problem.answer or "", options):
            return "the gold answer is the text of one option and the place of another"
        return None if _gold(problem, options) else "the gold answer is none of the options"

    def extract(self, problem: Problem, response: str) -> ExtractedAnswer | None:
        """Return the final answer of a response; "I choose B" and "B is correct" are forms of it here."""
        options = _options(problem)
        return final_answer(response, accepts=lambda text: _chosen(text, options) is not None, weaker=_choices)

    def fast(self, problem: Problem, answer: str) -> Finding | None:
        """Judge which option an answer chooses, or return None where a formula has to be compared with the options."""
        if reason := self.unverifiable(problem):
            return Finding(Outcome.UNVERIFIABLE, reason)
        options = _options(problem)
        if chosen := _chosen(answer, options):
            return _finding(chosen, problem, options)
        is_formula = any(character in answer for character in "\\^=$") and not _SECOND.search(answer)
        return None if options and is_formula else Finding(Outcome.WRONG, "chooses no single option")

    def combine(self, problem: Problem, boxes: tuple[str, ...]) -> str | None:
        """Return several boxes as one list where the gold answer is several letters."""
        return ", ".join(map(_plain, boxes)) if len(_gold(problem, _options(problem)) or ()) > 1 else None

    def compare(self, problem: Problem, answer: str) -> Finding:
        """Judge which option's formula an answer is equal to."""
        finding = self.fast(problem, answer)
        if finding is not None:
            return finding
        options = _options(problem)
        checker = math_answer.MathAnswer()
        equal = [letter for letter, option in options.items() if _is_equal(checker, problem, option, answer)]
        if len(equal) != 1:
            return Finding(Outcome.WRONG, "chooses no single option")
        return _finding(frozenset(equal), problem, options)


def _is_equal(checker: math_answer.MathAnswer, problem: Problem, option: str, answer: str) -> bool:
    as_gold = replace(problem, answer=option)
    return (checker.fast(as_gold, answer) or checker.compare(as_gold, answer)).outcome is Outcome.CORRECT


def _finding(chosen: frozenset[str], problem: Problem, options: dict[str, str]) -> Finding:
    is_same = chosen == _gold(problem, options)
    kind = "option" if len(chosen) == 1 else "options"
    return Finding(Outcome.CORRECT if is_same else Outcome.WRONG, f"{kind} {', '.join(sorted(chosen))}")


def _options(problem: Problem) -> dict[str, str]:
    given = problem.metadata.get("options") or ()
    if isinstance(given, str):
        given = _listed(given)
    if not isinstance(given, list | tuple | Mapping):
        return {}
    pairs = given.items() if isinstance(given, Mapping) else zip(_LETTERS, given, strict=False)
    options = {str(letter).strip().upper(): str(text) for letter, text in pairs}
    if len(given) > len(options):
        options["beyond J"] = ""
    return {letter: _without_mark(text, letter) for letter, text in options.items()}


def _listed(text: str) -> dict[str, str]:
    """Return the options of one text, `A) … B) …`."""
    marks, wanted = [], iter(_LETTERS)
    letter = next(wanted)
    for mark in _OPTION.finditer(text):
        if mark[1] == letter:
            marks.append(mark)
            letter = next(wanted, "")
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    return {mark[1]: text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}


def _without_mark(text: str, letter: str) -> str:
    marked = _MARKED.fullmatch(text.strip())
    is_its_own = marked and (marked[1] or marked[2]) == letter
    return marked["text"] if marked and is_its_own and not _INITIAL.match(marked["text"]) else text


def _is_ambiguous(gold: str, options: dict[str, str]) -> bool:
    """Return whether a gold answer may be an option's text or the place of another option: 1 of ["0", "1", "2"]."""
    text = gold.strip()
    if not text.isdecimal() or int(text[:9]) > len(options):
        return False
    by_text = _by_text(text, options)
    return by_text is not None and by_text not in _LETTERS[int(text) : int(text) + 1]


def _gold(problem: Problem, options: dict[str, str]) -> frozenset[str] | None:
    text = _plain(problem.answer or "")
    if bare := _BARE.fullmatch(text):
        letter = bare[1].upper()
        if not options or letter in options:
            return frozenset(letter)
    if by_text := _by_text(text, options):
        return frozenset(by_text)
    if several := _several(text, frozenset(options) or frozenset(_LETTERS)):
        return several
    marked = _MARKED.fullmatch(text)
    letter = (marked[1] or marked[2]).upper() if marked else ""
    is_one = marked and (letter in options or not options) and _agrees(marked["text"], letter, options)
    return frozenset(letter) if is_one else None


def _several(text: str, letters: frozenset[str]) -> frozenset[str] | None:
    """Return the letters of `A, C`, `A and C` or `ACD`."""
    text = text.strip("()[]（） ")
    chosen = frozenset(re.findall("[A-J]", text)) if _is_several(text) else frozenset()
    return chosen if len(chosen) > 1 and chosen <= letters else None


def _is_several(text: str) -> bool:
    is_joined = _JOINED.fullmatch(text) is not None and list(text) == sorted(set(text))
    return is_joined or _SEVERAL.fullmatch(text) is not None or _SPACED.fullmatch(text) is not None


def _chosen(answer: str, options: dict[str, str]) -> frozenset[str] | None:
    text = _SURE.sub("", _plain(answer), count=1) if _SURE.match(_plain(answer)) else _plain(answer)
    if prefix := _PREFIX.match(text):
        text = text[prefix.end() :]
    bare, by_text = _BARE.fullmatch(text), _by_text(text, options)
    if bare and (bare[1].isupper() or by_text is None):
        return frozenset(bare[1].upper())
    if by_text:
        return frozenset(by_text)
    if several := _several(text, frozenset(_LETTERS)):
        return several
    marked, rules_out = _MARKED.fullmatch(text), _RULES_OUT.fullmatch(text)
    if rules_out and not (marked and _by_text(marked["text"], options)):
        return frozenset(rules_out[1])
    if marked:
        letter = (marked[1] or marked[2]).upper()
        return frozenset(letter) if _agrees(marked["text"], letter, options) else None
    if options and (glossed := _GLOSSED.fullmatch(text)):
        return frozenset(glossed[1]) if _agrees(glossed["text"], glossed[1], options) else None
    if options and (last := _LETTER_LAST.fullmatch(text)):
        letter = (last[2] or last[3]).upper()
        return frozenset(letter) if _agrees(last["text"], letter, options) else None
    reason = _REASON.match(text)
    is_one = reason and not _SECOND.search(text[reason.start(1) + 1 : reason.end()])
    return frozenset(reason[1]) if reason and is_one else None


def _by_text(text: str, options: dict[str, str]) -> str | None:
    """Return the letter of the one option with this text: to the letter, in words, as a number, or its first words."""
    for form in (_exact, _words):
        wanted = form(text)
        same = [letter for letter, option in options.items() if wanted and form(option) == wanted]
        if same:
            return same[0] if len(same) == 1 else None
    equal = [letter for letter, option in options.items() if _same_number(option, text) is True]
    if not equal and wanted.count(" ") >= _FIRST_WORDS:
        equal = [letter for letter, option in options.items() if _words(option).startswith(f"{wanted} ")]
    return equal[0] if len(equal) == 1 else None


def _agrees(text: str, letter: str, options: dict[str, str]) -> bool:
    """Return whether the text after a letter may be its option's: it names no other letter and fits no other better."""
    own, by_text = options.get(letter), _by_text(text, options)
    if own is not None and (by_text == letter or _exact(own) == _exact(text)):
        return True
    others = {match[1] or match[2] for match in _OTHER.finditer(text)} - {letter}
    if by_text or others or _DENIED.match(text) or _INITIAL.match(text):
        return False
    if not options:
        return not _SECOND.match(text)
    if own is None:
        return False
    is_same = _same_number(own, text)
    if is_same is not None:
        return is_same or _is_only_value(text, letter, options)
    best = max((_fits(text, option) for other, option in options.items() if other != letter), default=0.0)
    return _fits(text, own) >= best


def _is_only_value(text: str, letter: str, options: dict[str, str]) -> bool:
    """Return whether a number has the value of a letter's option and of no other, whatever its unit is called."""
    values = {other: numbers.read(_plain(option)) for other, option in options.items()}
    number = numbers.read(text)
    return [other for other, value in values.items() if value and number and value.value == number.value] == [letter]


def _fits(text: str, option: str) -> float:
    """Return how much of the words of a text and an option is common to both."""
    words, wanted = (set(_WORD.findall(normalised(each))) for each in (text, option))
    return len(words & wanted) / max(1, len(words | wanted))


def _same_number(option: str, text: str) -> bool | None:
    """Return whether two texts are the same number, or None if one of them is no number."""
    finding = numbers.compare(_plain(option), text)
    return None if finding is None else finding.outcome is Outcome.CORRECT


def _exact(text: str) -> str:
    return "".join(_plain(text).rstrip(".").split())


def _words(text: str) -> str:
    return re.sub(r"^(?:the|an?) (?=\w)", "", normalised(_plain(text)))


def _plain(text: str) -> str:
    return notation.flat(notation.tidy(text)).replace("$", "").strip(" *_")


def _choices(text: str) -> list[Candidate]:
    """Return the letters that a text chooses without a statement about the answer."""
    patterns = (_I_CHOOSE, _IT_IS, _IS_CORRECT, _ELSEWHERE, _ALONE)
    matches = [match for pattern in patterns for match in pattern.finditer(text)]
    return [
        Candidate(match["letter"].upper(), *match.span("letter"), "choice", match.end("letter") < len(text))
        for match in matches
    ]
