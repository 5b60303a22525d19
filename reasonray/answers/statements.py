"""Answers that a sentence states ("The answer is …", "答案是…") or that a label announces ("Answer:", "### Answer").

The words are those that models write in the languages of the common multilingual benchmarks. A text is searched for the
words, from its end, and only around them by an expression, so its length costs the search for a few words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from reasonray.answers.candidate import Candidate
from reasonray.answers.markup import DISPLAYS, MATH, is_formula, sentence_end, strip_markup

_ANSWERS = (
    "answer|ans|antwort|endantwort|respuesta|réponse|reponse|resposta|risposta|antwoord|svar|cevap|yanıt|jawaban|odpowiedź"
    "|odpověď|válasz|vastaus|răspuns|đáp án|câu trả lời|jibu|ответ|відповідь|απάντηση"
)
_CHOICES = "option|choice|letter"
_OUTCOMES = (
    "result|solution|ergebnis|endergebnis|lösung|resultado|solución|résultat|resultat|risultato|soluzione|результат"
)
_QUANTITIES = "value|total|sum|number|amount|count|price|cost|probability"
_UNSPACED = "答案|答え|答|正解|解答|回答|정답|답변|해답|답|الإجابة|الجواب|إجابة|उत्तर|উত্তর|คำตอบ"

_MARKS = r"[*_`]{0,4}"
_COPULA = (
    r"(?<!\w)(?:is|are|was|equals|becomes|reads|lautet|ist|sind|es|son|est|sont|é|è|är|adalah|là|равен|равна|равно"
    r"|comes to|works out to|(?:turns|comes) out to be|(?P<modal>would|should|must|will|has to|can only) be)(?!\w)"
)
_ADVERB = r"(?:therefore|thus|then|hence|so|simply|finally|daher|also|donc|entonces)\b"
_STATED = (
    rf"s?(?:et)?(?:\W?\(s\))?{_MARKS}(?: (?:choice|option|value)(?!\w))?"
    r"(?: (?:finale?|correct[ea]?|correta|correcto|corretta|définitive|poprawna))?"
    r"(?:,? (?:to|of|for|in|as|zu|auf|für|à|de|na) [^.!?:：=\n]{1,80}?,?)?"
    rf"(?:, ?{_ADVERB},?)?[^\S\n]{{0,4}}"
    rf"(?:(?P<sign>[:：→⇒]|=>?|->)|{_COPULA}){_MARKS}[^\S\n]{{0,4}}[:：=]?"
    rf"(?:[^\S\n]{{0,4}}{_ADVERB}[^\S\n]{{0,4}},?)?"
)


def _stating(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{words}){_STATED}", re.IGNORECASE)


_ANSWER_IS, _CHOICE_IS = _stating(_ANSWERS), _stating(_CHOICES)
_OUTCOME_IS = _stating(f"{_OUTCOMES}|{_QUANTITIES}")
_ANSWER_IS_EAST = re.compile(
    rf"(?:{_UNSPACED}){_MARKS}(?: (?:النهائية|الصحيحة|النهائي|الصحيح))?[^\S\n]{{0,2}}"
    r"(?:(?:应该|應該|应|應|就|即|便|也)?(?:是|为|為|等于|等於|选|選|は|은|는|이|है|คือ|هي|هو)[^\S\n]{0,2}[:：、]?|(?P<sign>[:：=ঃ])|(?P<modal>(?!)))"
    rf"{_MARKS}[^\S\n]{{0,4}}"
)
_LABEL = re.compile(
    rf"[^\S\n]{{0,4}}[#>*_-]{{0,8}}[^\S\n]{{0,4}}(?:(?:the|my|our) )?(?P<final>final |correct )?"
    rf"(?:{_ANSWERS}){_MARKS}(?:(?P<sign> {{1,4}}[-–—]{{1,2}} {{1,4}}|(?<=ans)\. ?)|(?P<glued> {{1,4}}))(?=\S)",
    re.IGNORECASE,
)
_HEADING = re.compile(
    rf"[^\S\n]{{0,4}}(?P<mark>[#*_]{{1,8}}[^\S\n]{{0,4}})?(?P<final>final |correct |最终|最終|최종 ?)?"
    rf"(?:{_ANSWERS}|{_UNSPACED}|results?|ergebnis)(?: finale?| définitive)?[^\S\n]{{0,4}}[*_]{{0,8}}"
    r"[^\S\n]{0,4}(?=\n|$)",
    re.IGNORECASE,
)
_CORRECT = re.compile(r"\b(?:correct|right|best|final|chosen|appropriate)\b[ *_]{1,4}(?:answer )?$", re.IGNORECASE)
_FINAL = re.compile(r"\bfinal $", re.IGNORECASE)
_FIRST = re.compile(
    r"(?:^|[\n.])[^\S\n]{0,4}[#>*_-]{0,8}[^\S\n]{0,4}(?:(?:so|thus|hence|the|das|le|el),? ){0,2}$", re.IGNORECASE
)

_JSON_VALUE = re.compile(
    r"answer\"\s{0,4}:\s{0,4}(?:\"(?P<text>(?:[^\"\\\n]|\\.){1,400})\"|(?P<number>-?\d[\d.eE+-]{0,40})(?=\s{0,8}[,}])"
    r"|(?P<list>\[[^\]\n]{1,400}\]))",
    re.IGNORECASE,
)
_DOUBT = re.compile(
    r"(?:\b(?:if|suppose|supposing|assume|assuming|whether|unless)|\b(?:might|may|could|would) "
    r"(?:think|guess|believe|say)|\bthought)(?: that)?(?: the| my| our| your| final| correct){0,3}[^\S\n]*$",
    re.IGNORECASE,
)
_DOUBTS = {
    "if",
    "suppose",
    "supposing",
    "assume",
    "assuming",
    "whether",
    "unless",
    "might",
    "may",
    "could",
    "would",
    "thought",
}
_CONDITION = re.compile(r"\b(?:if|had|unless|otherwise|without|suppose|were|instead of)\b[^.!?\n]*$", re.IGNORECASE)
_BLAME = re.compile(r"(?:wrong|incorrect|not (?:right|correct|quite right|valid))\b", re.IGNORECASE)
_REMARK = re.compile(
    r"(?:(?:also|indeed|clearly|now|still|in fact|therefore|thus|both) )?(?:correct|right|verified|confirmed"
    r"|reasonable|consistent|plausible|valid|clear|unique|sensible|obvious|checked|as (?:follows|required|expected"
    r"|above|before|stated)|found|obtained|based|given by|derived|in (?:the|a|its|terms)|an? (?:\w+ )?(?:integer"
    r"|number|multiple|prime|fraction|divisor|factor|function)|positive|negative|between|within|supposed|expected"
    r"|required|asked|needed|independent|the same|what|where|when|how|why|rounded|simplified)\b",
    re.IGNORECASE,
)
_SUBJECT = re.compile(
    r"(?:(?:so|thus|therefore|hence|that)\b,? )*(?:the|there|this|it|its|his|her|their|a|an|each|every)\b",
    re.IGNORECASE,
)
_VERB = re.compile(r"\b(?:is|are|was|were|equals|(?:will|would|must|should) be)\b:?", re.IGNORECASE)
_DENIED = re.compile(r"\b(?:not|no|never|neither|cannot|isn['’]t|wrong|incorrect)\b", re.IGNORECASE)
_SECOND_VALUE = re.compile(r"\d|\b(?:and|or|but|while|whereas)\b", re.IGNORECASE)
_MAX_SENTENCE = 400
_BLANK = re.compile(r"[\s*_]*\n[^\S\n]*")
_BULLET = re.compile(r"[^\S\n]{0,4}(?:[-*•]|\d{1,2}[.)])[^\S\n]{1,4}([^\n]+)\n?")
_TAIL = re.compile(r"</[a-z]|<\||<｜|【")
_POLITE = re.compile(r"(?:입니다|이다|이에요|예요|됩니다|です|である|だ|になります|となります|でした)$")
_MAX_STATEMENTS = 12
"""The last occurrences of each word that are examined; a bound, so that hostile texts stay cheap."""
_MAX_BULLETS = 16
_DISPLAY_OPENINGS = tuple(DISPLAYS)
_UNSPACED_WORDS = frozenset(_UNSPACED.split("|"))


def statements(text: str) -> list[Candidate]:
    """Return what the last sentences and labels state as the answer, in their order."""
    lower = lowered(text)
    found: dict[int, Candidate] = {}
    for word, read in _READERS_ASCII if text.isascii() else _READERS:
        if word in lower and (word != "ans" or lower.count("ans") > lower.count("answer")):
            for at in occurrences(lower, word, spaced=word not in _UNSPACED_WORDS):
                if candidate := read(text, at):
                    found[candidate.start] = candidate
    return [found[start] for start in sorted(found)] if found else []


def outcomes(text: str) -> list[Candidate]:
    """Return the values that a text calls its result: "Result: 42", "The final value is 42"."""
    lower, found = lowered(text), []
    for words, before in ((_OUTCOMES, _FIRST), (f"{_OUTCOMES}|{_QUANTITIES}", _FINAL)):
        for at in (at for word in words.split("|") if word in lower for at in occurrences(lower, word)):
            if before.search(text, max(0, at - 24), at) and (match := _OUTCOME_IS.match(text, at)):
                found.append(_stated(text, at, match))
    return [candidate for candidate in found if candidate and is_formula(candidate.text)]


def lowered(text: str) -> str:
    """Return a text in lower case, every character at its place."""
    return text.lower() if text.isascii() else text.replace("İ", "I").lower()


def occurrences(lower: str, word: str, *, spaced: bool = True) -> Iterator[int]:
    """Yield the starts of the last occurrences of a word; if spaced, only where no letter precedes it."""
    at, count = lower.rfind(word), 0
    while at >= 0 and count < _MAX_STATEMENTS:
        if not spaced or at == 0 or not lower[at - 1].isalnum():
            count += 1
            yield at
        at = lower.rfind(word, 0, at)


def _answer(text: str, at: int) -> Candidate | None:
    if value := _JSON_VALUE.match(text, at):
        answer = strip_markup((value["text"] or value["number"] or value["list"]).replace("\\\\", "\\"))
        return Candidate(answer, value.start(), value.end(), "phrase") if answer else None
    match = _ANSWER_IS.match(text, at)
    return (_stated(text, at, match) if match else None) or _labelled(text, at)


def _answer_unspaced(text: str, at: int) -> Candidate | None:
    match = _ANSWER_IS_EAST.match(text, at)
    return (_stated(text, at, match) if match else None) or _labelled(text, at)


def _correct_choice(text: str, at: int) -> Candidate | None:
    match = _CORRECT.search(text, max(0, at - 24), at) and _CHOICE_IS.match(text, at)
    return _stated(text, at, match) if match else None


def _stated(text: str, at: int, match: re.Match[str]) -> Candidate | None:
    """Return the candidate after "The answer is", or None where the sentence doubts or blames it."""
    before = text[max(0, at - 60) : at]
    if not _DOUBTS.isdisjoint(before.lower().split()) and _DOUBT.search(before):
        return None
    is_sentence = not match["sign"]
    if match["modal"] and _CONDITION.search(text, max(0, at - 160), at):
        return None
    candidate = _candidate_at(text, match.end(), is_question_allowed=not is_sentence)
    if candidate is None or not is_sentence or not candidate.text[0].isalpha():
        return candidate
    if _BLAME.match(candidate.text):
        return None
    return replace(candidate, remark=True) if _REMARK.match(candidate.text) else candidate


def _labelled(text: str, at: int) -> Candidate | None:
    """Return the candidate after a label or below a heading on the line of a word, or None if the line is neither."""
    begin = text.rfind("\n", 0, at) + 1
    if at - begin > 40:
        return None
    if heading := _HEADING.match(text, begin):
        is_heading = heading["mark"] or heading["final"]
        return _candidate_at(text, heading.end(), is_question_allowed=True) if is_heading else None
    label = _LABEL.match(text, begin)
    if label is None:
        return None
    candidate = _candidate_at(text, label.end(), is_question_allowed=True)
    is_label = candidate and (label["sign"] or (label["final"] and is_formula(candidate.text)))
    return candidate if is_label else None


def _candidate_at(text: str, start: int, *, is_question_allowed: bool) -> Candidate | None:
    """Return the answer that begins after a phrase, or None if it is empty or a question."""
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    line = text[start:end]
    if end < len(text) and not line.strip(" \t*_:"):  # the rest of the line is empty: the answer is below
        blank = _BLANK.match(text, end)
        start = blank.end() if blank else start
        if listed := _bullets(text, start):
            return listed
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        line = text[start:end]
    if line.lstrip().startswith(_DISPLAY_OPENINGS) and (displayed := _displayed(text, start)):
        return displayed if displayed.text else None
    cut = _TAIL.search(line) if "<" in line or not line.isascii() else None
    line = line[: cut.start()] if cut else line
    stop = sentence_end(line)
    if stop and stop.group() == "?" and not is_question_allowed:
        return None
    last = (stop.end() if stop.group() in "?？" else stop.start()) if stop else len(line)
    answer = strip_markup(line[:last])
    answer = answer if answer.isascii() else strip_markup(_POLITE.sub("", answer))
    closed = stop is not None or cut is not None or end < len(text)
    return Candidate(answer, start, start + last, "phrase", closed) if answer else None


def _displayed(text: str, start: int) -> Candidate | None:
    """Return the formula of a display that begins here, or None if it does not end."""
    at = start + len(text[start:]) - len(text[start:].lstrip()) if text[start : start + 1].isspace() else start
    end = text.find(DISPLAYS[text[at : at + 2]], at + 2)
    answer = text[at + 2 : end].strip().rstrip(".").strip()
    return Candidate(answer, at, end + 2, "phrase") if end >= 0 else None


def _bullets(text: str, start: int) -> Candidate | None:
    """Return the items of a list as one answer, or None if there are not two of them."""
    items: list[str] = []
    at = start
    while len(items) < _MAX_BULLETS and (bullet := _BULLET.match(text, at)):
        items.append(strip_markup(bullet[1]))
        at = bullet.end()
    return Candidate(", ".join(items), start, at, "phrase", at < len(text)) if len(items) > 1 else None


def predicate(sentence: str, accepts: Callable[[str], bool]) -> str:
    """Return the value that a sentence gives its subject ("The largest n is 34"), or the sentence if unclear."""
    if not sentence[:1].isalpha() or not _SUBJECT.match(sentence) or len(sentence) > _MAX_SENTENCE:
        return sentence
    plain = MATH.sub(lambda formula: "0" * len(formula.group()), sentence)
    verbs = list(_VERB.finditer(plain))
    if not verbs or _DENIED.search(plain, 0, verbs[-1].start()):
        return sentence
    if len(verbs) > 1 and _SECOND_VALUE.search(plain, verbs[0].end(), verbs[-1].start()):
        return sentence
    value = strip_markup(sentence[verbs[-1].end() :])
    return value if accepts(value) else sentence


_READERS = [
    *((word, _answer) for word in _ANSWERS.split("|")),
    *((word, _answer_unspaced) for word in _UNSPACED.split("|")),
    *((word, _correct_choice) for word in _CHOICES.split("|")),
    *((word, _labelled) for word in ("result", "ergebnis")),
]
_READERS_ASCII = [(word, read) for word, read in _READERS if word.isascii()]
