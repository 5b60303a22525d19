"""Equations of two plain numbers in a text, and whether the text states a false one.

An equation is false only if no reading of it is true. Besides a rounded number, the result can be a quotient with a
remainder (3 R 2, 3……2), a mixed number (3 2/5), a repeating decimal (0.333…, 0.(3), 0.\\overline{3}), or a residue
(3 mod 12). A false equation that the text takes back at once is not stated: "2 + 3 = 6, no, 5".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction

from reasonray.curation.text import keyboard_operators

__all__ = ["states_a_false_equation"]

_WIDE = str.maketrans("０１２３４５６７８９＋－＝／．（）＊", "0123456789+-=/.()*")
# Python refuses to read a number of more than 4300 digits, and nobody reasons with one.
_DIGITS = r"\d{1,100}"
_NUMBER = rf"{_DIGITS}(?:\.{_DIGITS})?"
# One operation between two numbers that does not continue an expression on its left.
_LEFT = re.compile(
    rf"(?<![A-Za-z0-9_.,+\-*/=%(^√])(?<![+\-*/=%(^√]\s)(-?{_NUMBER}) ?([-+*/]) ?({_NUMBER}) ?= ?(?=-?\d)"
)
_CONTINUES = re.compile(
    r"(?:\b(?:of|log|ln|lg|sin|cos|tan|cot|sec|csc|sqrt|choose|mod|per|plus|minus|times|by|base|and a half)"
    r"|\\[a-z]+)\s*\Z",
    re.IGNORECASE,
)
"""Words before the left number that make it part of a longer expression: "half of 20 + 5 = 15"."""
_LOOK_BACK = 16

_END = r"(?!\d|[.,]\d|[A-Za-z_½⅓⅔¼¾²³]|\s?[-+*/^%])"
_PLAIN = re.compile(rf"(-?{_NUMBER}){_END}")
_DOTS = r"(?:…|\.{3,}|\\[lc]?dots)"
_ELLIPSIS = re.compile(rf"(-?{_DIGITS}(?:\.{_DIGITS})?) ?{_DOTS}(?! ?…)")
_OVERLINED = re.compile(
    rf"(-?{_DIGITS})\.(\d{{0,100}}?)(?:\(({_DIGITS})\)|\{{?\\(?:overline|bar|dot)\s?\{{?({_DIGITS})\}}{{0,2}})"
)
_MARKED = re.compile("(-?\\d{1,100})\\.(\\d{0,100}?)((?:\\d[\u0304\u0305\u0307\u0308]){1,100})")
"""Digits of the period with a line or a dot over each of them."""
_DOTTED = re.compile(rf"(-?{_DIGITS})\.(\d{{0,100}}?)(\\dot\s?\{{?\d\}}?\d{{0,100}}\\dot\s?\{{?\d\}}?)")
_CALLED = re.compile(rf"(-?{_DIGITS})\.({_DIGITS}),? ?\(?(?:repeating|recurring|periodic|循环|循環)")
_REMAINDER = re.compile(
    rf"(-?{_DIGITS})(?:,? ?(?:with |and |mit |avec |con )?(?:an? )?"
    r"(?:remainder|rem\.?|R\.?|Rest|reste|resto|ост(?:аток|\.)|余数|余|餘|나머지|あまり)"
    rf"(?: of| is|[:=是为])? ?({_NUMBER})|\s?…{{1,2}}\s?({_NUMBER})|\s?\.{{3,6}}\s?({_NUMBER})"
    rf"|,? ?(?:with|and) ({_NUMBER}) (?:left|remaining|over))",
    re.IGNORECASE,
)
_MIXED = re.compile(rf"(-?{_DIGITS})(?: |\s?\\[dt]?frac ?\{{)({_DIGITS})(?:/|\}} ?\{{)({_DIGITS})(?!\d)")
_RESIDUE = re.compile(rf"(-?{_DIGITS})\s?(?:\(|\\)?p?(?:mod(?:ulo)?)\s?\{{?({_DIGITS})", re.IGNORECASE)

_NEAR = 160
"""Characters after an equation in which its correction is looked for."""
_TAKEN_BACK = re.compile(
    r"\b(?:no(?=\W)|nope|wait|actually|oops|sorry|correction|hmm+|hold on|scratch that|rather|i mean|make that"
    r"|should (?:be|have been)|let me (?:re\w+|check|correct|fix)|(?:wrong|incorrect|mistake|false|error|not (?:right|"
    r"correct|true))|n[’']t (?:right|correct|true)|nein|falsch|non|faux|нет|неверно|ошиб\w*)"
    r"|不对|不對|错了|錯了|等等|算错|应该是|應該是|更正|아니|틀렸|잘못|違う|違い|間違",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\s,)\"”'’]{0,3}(?:is|was|would be|which is|that[’']s)\s+(?:wrong|false|incorrect|not (?:right|correct|true))",
    re.IGNORECASE,
)
_ANY_NUMBER = re.compile(rf"(?<![\d.])-?{_NUMBER}(?![\d]|\.\d)")


def states_a_false_equation(text: str) -> bool:
    """Return whether a text states a false equation of one operation between plain numbers, and lets it stand."""
    if "=" not in text and "＝" not in text:
        return False
    plain = keyboard_operators(text if text.isascii() else text.translate(_WIDE))
    return any(
        not _is_true(plain, left) and not _continues(plain, left.start()) and not _is_taken_back(plain, left, end)
        for left, end in _equations(plain)
    )


def _continues(text: str, start: int) -> bool:
    """Return whether an expression that ends at a place is part of a longer one, by the words before it."""
    return bool(_CONTINUES.search(text, max(0, start - _LOOK_BACK), start))


def _equations(text: str) -> Iterator[tuple[re.Match[str], int]]:
    """Yield the left side of each equation that can be read, and where its right side ends."""
    for left in _LEFT.finditer(text):
        ends = [found.end() for form in _FORMS if (found := form.match(text, left.end()))]
        if ends:
            yield left, max(ends)


_FORMS = (_PLAIN, _ELLIPSIS, _DOTTED, _OVERLINED, _MARKED, _CALLED, _REMAINDER, _MIXED, _RESIDUE)


def _is_true(text: str, left: re.Match[str]) -> bool:
    """Return whether some reading of an equation is true."""
    dividend, divisor, at = Fraction(left[1]), Fraction(left[3]), left.end()
    value = _value(left)
    if found := _REMAINDER.match(text, at):
        rest = Fraction(next(group for group in found.groups()[1:] if group))
        fits = left[2] == "/" and dividend == Fraction(found[1]) * divisor + rest and rest < abs(divisor)
        if fits or "..." not in found[0]:  # three dots can also be a pause
            return fits
    if value is None:
        return False
    if (found := _RESIDUE.match(text, at)) and (modulus := int(found[2])):
        return (value - int(found[1])) % modulus == 0
    if (found := _MIXED.match(text, at)) and int(found[3]):
        sign = -1 if found[1].startswith("-") else 1
        return value == int(found[1]) + sign * Fraction(int(found[2]), int(found[3]))
    for form in (_DOTTED, _OVERLINED, _MARKED):
        if found := form.match(text, at):
            period = re.sub(r"[^\d]", "", next(group for group in found.groups()[2:] if group))
            return value == _repeating(found[1], found[2], period)
    if found := _CALLED.match(text, at):
        return any(value == _repeating(found[1], found[2][:cut], found[2][cut:]) for cut in range(len(found[2])))
    if found := _ELLIPSIS.match(text, at):
        return _rounds_to(value, found[1]) or _begins_with(value, found[1])
    plain = _PLAIN.match(text, at)
    return plain is not None and _rounds_to(value, plain[1])


def _value(left: re.Match[str]) -> Fraction | None:
    """Return the value of a left side; None for a division by zero."""
    one, other = Fraction(left[1]), Fraction(left[3])
    match left[2]:
        case "+":
            return one + other
        case "-":
            return one - other
        case "*":
            return one * other
    return one / other if other else None


def _rounds_to(value: Fraction, stated: str) -> bool:
    """Return whether a value is the stated one, up to the rounding of its decimals."""
    decimals = len(stated.partition(".")[2])
    return abs(value - Fraction(stated)) <= (Fraction(1, 2 * 10**decimals) if decimals else 0)


def _begins_with(value: Fraction, stated: str) -> bool:
    """Return whether the digits of a value begin with those stated, as before an ellipsis."""
    decimals = len(stated.partition(".")[2])
    same_sign = (value < 0) == stated.startswith("-")
    return same_sign and 0 <= abs(value) - abs(Fraction(stated)) < Fraction(1, 10**decimals)


def _repeating(whole: str, fixed: str, period: str) -> Fraction:
    """Return the value of whole.fixed(period): 0.1(6) is 1/6."""
    nines = Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(fixed))
    size = int(whole.lstrip("-")) + Fraction(int(fixed or 0), 10 ** len(fixed)) + nines
    return -size if whole.startswith("-") else size


def _is_taken_back(text: str, left: re.Match[str], end: int) -> bool:
    """Return whether the text denies an equation, or corrects it at once with the true value."""
    if _DENIED.match(text, end, end + _NEAR):
        return True
    value, operands = _value(left), {Fraction(left[1]), Fraction(left[3])}
    if value is None:
        return False
    stop = end + _NEAR
    again = re.compile(rf"{re.escape(left[1])} ?{re.escape(left[2])} ?{re.escape(left[3])} ?= ?(-?{_NUMBER}){_END}")
    if (restated := again.search(text, end, stop)) and _rounds_to(value, restated[1]):
        return True
    wrong = _ANY_NUMBER.match(text, left.end())
    for doubt in _TAKEN_BACK.finditer(text, end, stop):
        for number in _ANY_NUMBER.finditer(text, doubt.end(), stop):
            if _rounds_to(value, number[0]):
                return True
            if Fraction(number[0]) not in operands and not (wrong and number[0] == wrong[0]):
                break
    return False
