"""Equations of plain numbers in a text, and whether the text states a false one.

An equation is false only if no reading of it is true. Besides a rounded number, the result can be a quotient with a
remainder (3 R 2, 3……2), a mixed number (3 2/5), a repeating decimal (0.333…, 0.(3), 0.\\overline{3}), or a residue
(3 mod 12), and 12 / 2 * 3 can be 18 or 2. Signs of money before numbers mean nothing. A false equation that the text
takes back at once is not stated: "2 + 3 = 6, no, 5".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from reasonray.curation.text import keyboard_operators

__all__ = ["states_a_false_equation"]

_WIDE = str.maketrans("０１２３４５６７８９＋－＝／．（）＊", "0123456789+-=/.()*")
# Python refuses to read a number of more than 4300 digits, and nobody reasons with one.
_DIGITS = r"\d{1,100}"
_NUMBER = rf"{_DIGITS}(?:\.{_DIGITS})?"
_MONEY = re.compile(r"(?<![^\s=+*/(-])\\?[$€£](?=\d)")
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?: \d{3})* 000(?!\d)")
_SPACED = re.compile(r"-?\d{1,3}(?: \d{3})+(?!\d)")
_LETTER_X = re.compile(r"(?<=\d) ?[xX] ?(?=\d)")
# Numbers with operations between them that do not continue an expression on their left.
_LEFT = re.compile(
    r"(?<![A-Za-z0-9_.,+\-*/=%(^√])(?<![0-9+\-*/=%(^√]\s)(?<!\d,\s)(?!-?0\d)"
    rf"(-?{_NUMBER}(?: ?[-+*/] ?{_NUMBER}){{1,9}}) ?= ?(?=-?\d)"
)
_SIGNED = re.compile(rf"(?:\A-)?{_NUMBER}|[-+*/]")
_CONTINUES = re.compile(
    r"(?:\b(?:x|\d and|of|log|ln|lg|sin|cos|tan|cot|sec|csc|sqrt|choose|mod|per|plus|minus|times|by|base|and a half)"
    r"|\\[a-z]+)\s*\Z",
    re.IGNORECASE,
)
"""Words before the left number that make it part of a longer expression: "half of 20 + 5 = 15"."""
_LOOK_BACK = 16

_CENTS = re.compile(r" ?(?:cents?\b|¢)")
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
    rf"(-?{_DIGITS})(?:(?:(?: [a-z]{{1,20}}){{1,3}}(?= with an? rem))?,? ?(?:with |and |mit |avec |con )?(?:an? )?"
    r"(?:remainder|rem\.?|R\.?|Rest|reste|resto|ост(?:аток|\.)|余数|余|餘|나머지|あまり)"
    rf"(?: of| is|[:=是为])? ?({_NUMBER})|\s?…{{1,2}}\s?({_NUMBER})|\s?\.{{3,6}}\s?({_NUMBER})"
    rf"|,? ?(?:with|and) ({_NUMBER}) (?:left|remaining|over))",
    re.IGNORECASE,
)
_MIXED = re.compile(rf"(-?{_DIGITS})(?: (?:and )?\(?|\s?\\[dt]?frac ?\{{)({_DIGITS})(?:/|\}} ?\{{)({_DIGITS})(?!\d)")
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
    """Return whether a text states a false equation of operations between plain numbers, and lets it stand."""
    if "=" not in text and "＝" not in text:
        return False
    plain = _MONEY.sub("", keyboard_operators(text if text.isascii() else text.translate(_WIDE)))
    plain = _THOUSANDS.sub(lambda number: number[0].replace(" ", ""), _LETTER_X.sub(" * ", plain))
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
    terms, at = _SIGNED.findall(left[1]), left.end()
    if found := _REMAINDER.match(text, at):
        rest = Fraction(next(group for group in found.groups()[1:] if group))
        fits = len(terms) == 3 and terms[1] == "/" and rest < abs(Fraction(terms[2]))
        fits = fits and Fraction(terms[0]) == Fraction(found[1]) * Fraction(terms[2]) + rest
        if fits or "..." not in found[0]:  # three dots can also be a pause
            return fits
    return any(_is_result(text, at, value) for value in _values(terms))


def _is_result(text: str, at: int, value: Fraction) -> bool:
    """Return whether what stands at a place is a value, in some way of writing it."""
    if (found := _SPACED.match(text, at)) and value == int(found[0].replace(" ", "")):
        return True
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
    if not (plain := _PLAIN.match(text, at)):
        return False
    in_cents = _CENTS.match(text, plain.end()) is not None and _rounds_to(100 * value, plain[1])
    return in_cents or _rounds_to(value, plain[1])


def _values(terms: Sequence[str]) -> list[Fraction]:
    """Return the values that numbers with operations between them may have; none where one divides by zero.

    What follows a division can belong to the divisor: 12 / 2 * 3 is 18, or 2 where 12 / (2 * 3) is meant, and 2 / 1/3
    is 6 where 2 / (1/3) is meant.
    """
    readings = [_sum(terms, divides_on=False), _sum(terms, divides_on=True)]
    return [value for value in dict.fromkeys(readings) if value is not None]


def _sum(terms: Sequence[str], *, divides_on: bool) -> Fraction | None:
    """Return the value of a sum of products, None if it divides by zero.

    Args:
        terms: numbers, and the operations between them.
        divides_on: whether what follows a division belongs to the divisor, up to the next sum.
    """
    total, product, is_divisor = Fraction(0), Fraction(terms[0]), False
    for operation, number in zip(terms[1::2], map(Fraction, terms[2::2]), strict=True):
        if operation in "+-":
            total, product, is_divisor = total + product, number if operation == "+" else -number, False
            continue
        is_divisor = (operation == "/") != (divides_on and is_divisor)
        if is_divisor and not number:
            return None
        product = product / number if is_divisor else product * number
    return total + product


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
    terms = _SIGNED.findall(left[1])
    values, operands = _values(terms), set(map(Fraction, terms[::2]))
    stop = end + _NEAR
    again = re.compile(rf"{' ?'.join(map(re.escape, terms))} ?= ?(-?{_NUMBER}){_END}")
    if (restated := again.search(text, end, stop)) and any(_rounds_to(value, restated[1]) for value in values):
        return True
    wrong = _ANY_NUMBER.match(text, left.end())
    for doubt in _TAKEN_BACK.finditer(text, end, stop):
        for number in _ANY_NUMBER.finditer(text, doubt.end(), stop):
            if any(_rounds_to(value, number[0]) for value in values):
                return True
            if Fraction(number[0]) not in operands and not (wrong and number[0] == wrong[0]):
                break
    return False
