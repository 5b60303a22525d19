"""Whether a text takes back what it stated before: "Wait, that is wrong", "I made a mistake", "不对".

A retraction begins its sentence and speaks of the answer or the work ("That is wrong", not "Option B is wrong"). If a
later sentence confirms the answer after all, it stands.
"""

from __future__ import annotations

import re
from collections import deque

from reasonray.answers.candidate import Candidate
from reasonray.answers.markup import is_formula, sentence_end, strip_markup

_BEGINNING = re.compile(r"(?:^|[.!?。！？\n;…)\]}$*>—–,，])[\s*_.>)\]}$—–,，-]*")
_INTERJECTION = (
    r"(?:(?:no|nope|wait|hmm+|hm|oh|oops|ah|uh|um|hold on|hang on|actually|sorry|apologies|but|however|well|ok|okay|so"
    r"|on second thoughts?|unfortunately|i see|i think|i realize|i realise|looking back|upon (?:review|reflection))\b"
    r"(?: that)?[\s,.!?…—–:;-]{0,6}){0,6}"
)
_WORK = r"(?:answer|result|value|calculation|computation|solution|reasoning|conclusion|choice|box(?:ed)?|work|step)"
_IT = rf"(?:that|this|it|(?:the|my|our|that|this|above)(?: \w{{1,12}}){{0,2}} {_WORK}(?: above)?)"
_NEGATIVE = (
    r"(?:(?:is|was|looks|seems|must be|'s|’s)(?: actually| clearly| definitely| all| probably| obviously)? "
    r"(?:wrong|incorrect|mistaken|inaccurate|a mistake|an error|not (?:right|correct|it|the answer|quite right|true))"
    r"|(?:isn['’]t|wasn['’]t|can['’]?t be|cannot be|can not be|couldn['’]t be|doesn['’]t (?:look|seem))"
    r" (?:right|correct|it|the answer|true))\b"
)
_MINE = (
    r"(?:i|we)(?:['’]ve| have|['’]m| am| was)?(?: actually| just| must have| clearly)? ?(?:made|make) (?:an?|some|the)"
    r" (?:\w+ )?(?:mistake|error|slip)s?|i (?:was|am|have been) (?:wrong|mistaken|incorrect)|there (?:is|was) an? "
    r"(?:\w+ )?(?:mistake|error) (?:in (?:my|the|this)|above|here)|i (?:take|took) (?:that|it|this) back"
    r"|i (?:must |have to |should )?(?:retract|withdraw)|i (?:misread|miscalculated|miscounted|misunderstood)"
    r"|i (?:need|have) to (?:correct|redo|revise|fix|reconsider)|i meant\b|(?:scratch|strike|ignore|disregard|forget)"
    r" (?:that|this|it|the (?:above|previous)|my (?:previous|last))|correction\b|never ?mind\b"
    r"|(?:let me|let['’]s|i(?:['’]ll| will)) (?:correct|fix|revise|redo|re-do|start over|try again|reconsider|rethink"
    r"|recalculate|recompute|re-?evaluate)"
    r"|no, wait|(?:wait|hmm+|oh|actually|oops|but)[,.!… -]{1,4}no\b(?! (?:other|more))|no(?=[,.!—–])"
)
_ELSEWHERE = (
    r"(?:等等|等一下|哦|不|啊|抱歉)[，,。！…\s]{0,3}[^。\n]{0,8}(?:不对|不對|错了|錯了|有误|算错|不正确)"
    r"|(?:不对|不對|我错了|我算错了|更正)"
    r"|(?:moment|halt|nein|warte)[,.! …]{1,3}[^.\n]{0,20}(?:falsch|nicht richtig|fehler)"
    r"|das ist (?:falsch|nicht richtig)"
    r"|(?:c['’]est|ceci est|cela est) (?:faux|incorrect|une erreur)|ce n['’]est pas (?:correct|juste)"
    r"|(?:eso|esto) (?:es|está) (?:mal|incorrecto|equivocado)|me equivoqué|(?:это|ответ) (?:неверно|неправильно)|я ошиб"
    r"|틀렸|잘못 ?(?:계산|했)|間違(?:い|え)|違います"
)
_EVENT = re.compile(
    rf"{_INTERJECTION}(?:(?P<back>{_IT} ?{_NEGATIVE}|{_MINE}|{_ELSEWHERE})"
    rf"|(?P<again>(?:yes|indeed|right)?[, ]{{0,2}}(?:{_IT}|everything)(?: (?:is|was|does|did)|'s|’s)?"
    r"(?: indeed| in fact| actually| still| really)?"
    r" (?:correct|right|valid|fine|holds?|stands?|checks? out|confirmed|matches|works?)\b|i was right))",
    re.IGNORECASE,
)
_CORRECTED = re.compile(
    r"\b(?:it|this|that|the (?:correct )?(?:answer|result|value)|i meant)"
    r"(?: (?:is|should(?: actually)? be|must be|equals|has to be)|['’]s)?(?: actually)?:? ",
    re.IGNORECASE,
)
_SHORTEST = 3
"""The characters of the shortest retraction."""
_MAX_TAIL = 20_000
"""The characters after an answer that are examined, from the end."""
_MAX_BEGINNINGS = 1024
"""The last clauses of them that are examined."""


def taken_back_at(text: str, start: int, end: int) -> int:
    """Return where text[start:end] takes back what was stated before it for good, or -1 if it does not."""
    at = -1
    if end - start < _SHORTEST:
        return at
    beginnings = _BEGINNING.finditer(text, max(start - 1, 0, end - _MAX_TAIL), end)
    for beginning in deque(beginnings, maxlen=_MAX_BEGINNINGS):
        if event := _EVENT.match(text, beginning.end(), end):
            at = event.end() if event["back"] else -1
    return at


def correction(text: str, start: int) -> Candidate | None:
    """Return the value that a retraction puts in the place of the answer ("it should be 7"), or None."""
    found = None
    for phrase in _CORRECTED.finditer(text, max(0, start - 10), start + 400):
        line = text[phrase.end() : phrase.end() + 200].partition("\n")[0]
        stop = sentence_end(line)
        value = strip_markup(line[: stop.start()] if stop else line)
        if is_formula(value) and not value.lower().startswith("not "):
            end = phrase.end() + (stop.start() if stop else len(line))
            found = Candidate(value, phrase.end(), end, "correction", bool(stop) or end < len(text))
    return found
