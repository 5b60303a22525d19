"""An equation is false only if no reading of it is true, and only where the text lets it stand."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasonray.curation.equations import states_a_false_equation

_SIGNS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
_REMAINDERS = (" R ", "R", " r ", " remainder ", " with a remainder of ", ", remainder ", "……", "余", " Rest ")
_CUES = (
    ", no, ",
    ". Wait, ",
    " — actually ",
    "? No, it's ",
    ", oops, ",
    ", sorry, ",
    "，不对，是",
    " (should be ",
    "... hmm, ",
)


@given(
    st.integers(0, 9999), st.integers(1, 99), st.integers(0, 98), st.sampled_from(_REMAINDERS), st.sampled_from("÷/")
)
def test_a_quotient_with_a_remainder_is_true_only_as_division_gives_it(
    dividend: int, divisor: int, stated: int, mark: str, sign: str
) -> None:
    quotient, remainder = divmod(dividend, divisor)
    text = f"So {dividend} {sign} {divisor} = {quotient}{mark}"
    assert not states_a_false_equation(f"{text}{remainder}. Next.")
    assert states_a_false_equation(f"{text}{stated}. Next.") == (stated != remainder)


@given(st.integers(1, 400), st.integers(2, 60), st.integers(0, 8))
def test_a_repeating_decimal_is_true_only_with_its_period(numerator: int, denominator: int, change: int) -> None:
    whole, fixed, period = _expansion(numerator, denominator)
    for write in ("({})", "\\overline{{{}}}", "\\bar{{{}}}"):
        for digits in {period, period[:-1] + str((int(period[-1]) + change) % 9)}:
            text = f"{numerator}/{denominator} = {whole}.{fixed}{write.format(digits)}, so"
            value = whole + Fraction(int(fixed or 0), 10 ** len(fixed))
            value += Fraction(int(digits), (10 ** len(digits) - 1) * 10 ** len(fixed))
            assert states_a_false_equation(text) == (value != Fraction(numerator, denominator))


@given(st.integers(1, 400), st.integers(2, 60), st.integers(1, 12), st.sampled_from(["…", "...", "\\ldots"]))
def test_digits_before_an_ellipsis_begin_the_value(numerator: int, denominator: int, digits: int, dots: str) -> None:
    cut = numerator * 10**digits // denominator
    shown = f"{cut // 10**digits}.{cut % 10**digits:0{digits}}{dots}"
    assert not states_a_false_equation(f"{numerator}/{denominator} = {shown} So")
    beyond = cut + 2
    shown = f"{beyond // 10**digits}.{beyond % 10**digits:0{digits}}{dots}"
    assert states_a_false_equation(f"{numerator}/{denominator} = {shown} So")


@given(
    st.integers(2, 999),
    st.integers(2, 999),
    st.sampled_from("+-*"),
    st.integers(1, 50),
    st.sampled_from(_CUES),
    st.data(),
)
def test_an_error_is_forgiven_only_if_it_is_corrected_at_once_to_the_true_value(
    one: int, other: int, sign: str, error: int, cue: str, data: st.DataObject
) -> None:
    value = _SIGNS[sign](one, other)
    equation = f"We get {one} {sign} {other} = {value + error}"
    assert not states_a_false_equation(f"{equation}{cue}{value}. Then we go on.")
    assert not states_a_false_equation(f"{equation}{cue}{one} {sign} {other} = {value}.")
    wrong = data.draw(st.integers(-999, 999).filter(lambda number: number not in (value, one, other)))
    assert states_a_false_equation(f"{equation}{cue}{wrong}. Then we go on.")
    assert states_a_false_equation(f"{equation}. Then we go on.")


@given(st.integers(0, 999), st.integers(0, 999), st.sampled_from("+-*"), st.integers(1, 99))
def test_an_equation_is_read_in_every_script(one: int, other: int, sign: str, error: int) -> None:
    value = _SIGNS[sign](one, other)
    wide = str.maketrans("0123456789+-*=", "０１２３４５６７８９＋－×＝")
    for before, after in (("所以", "。"), ("그래서 ", "이다"), ("итак ", "."), ("$", "$")):
        for text in (f"{one}{sign}{other}={value}", f"{one}{sign}{other}={value}".translate(wide)):
            assert not states_a_false_equation(before + text + after)
        for text in (f"{one}{sign}{other}={value + error}", f"{one}{sign}{other}={value + error}".translate(wide)):
            assert states_a_false_equation(before + text + after)


@pytest.mark.parametrize(
    "text",
    [
        "17 / 5 = 3 with 2 left over",
        "17/5 = 3\\frac{2}{5}",
        "1/3 = 0.3\u0305",
        "1/7 = 0.\\dot{1}4285\\dot{7}",
        "2/3 = 0.67 = 0.6 repeating",
        "1/6 = 0.16 (repeating)",
        "half of 20 + 5 = 15",
        "log 100 + 2 = 4",
        "2 + 3 = 6 is wrong",
        "7 + 8 = 3 \\pmod{12}",
        "2 * 5 = 1e1",
        "5/0 = undefined",
    ],
)
def test_what_can_be_read_as_true_is_not_false(text: str) -> None:
    assert not states_a_false_equation(text)


_CHAINS = st.lists(st.tuples(st.sampled_from("+-*/"), st.integers(1, 99)), min_size=1, max_size=5)


@given(st.integers(0, 99), _CHAINS, st.integers(1, 50), st.sampled_from(["", "$"]))
def test_a_chain_of_operations_has_the_value_that_python_gives_it(
    first: int, rest: list[tuple[str, int]], error: int, money: str
) -> None:
    written = f"{money}{first}" + "".join(f" {sign} {money}{number}" for sign, number in rest)
    exact = eval(f"Fraction({first})" + "".join(f" {sign} Fraction({number})" for sign, number in rest))
    shown = f"{money}{round(float(exact), 4)}" if exact >= 0 else f"{round(float(exact), 4)}"
    assert not states_a_false_equation(f"So {written} = {shown} dollars.")
    if "/" not in [sign for sign, _ in rest]:
        assert states_a_false_equation(f"So {written} = {int(exact) + error} dollars.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3/4 kilogram is equal to 3 * 1000 / 400 = 750 grams.", True),
        ("Lee earns 16 * $33 = $498.", True),
        ("She sells 180 * 3 / 4 = 135 rolls.", False),
        ("120 / 2 * 3 = 20", False),
        ("120 / 2 * 3 = 180", False),
        ("120 / 2 * 3 = 60", True),
        ("Split $17 + 8 = 25$ in two", False),
        ("Thus, 60 x 60/100 = 36 students got B.", False),
        ("There are 60 students x 2/3 = 40 students.", False),
        ("Thus, 60 x 60/100 = 37 students got B.", True),
        ("8 x 1 1/2 = 12 rolls, or 2 + 1 1/2 = 3 1/2, or 12 x 1 and 1/4 = 15", False),
        ("0900-0130 = 0730 hours", False),
        ("He spends 50 cents because $1 / 2 = 50 cents", False),
        ("So it cost 192*100=$1920", True),
        ("25 / 1/3 = 75 decorations, 60 / 3/4 = 80 years", False),
        ("4 / 3 = 1 and 1/3, 100 / 6= 16 and (2/3)", False),
        ("4 / 3 = 1 and 2/3", True),
        ("13 / 6 = 2 full cycles with a remainder of 1 hour", False),
        ("13 / 6 = 2 full cycles with a remainder of 2 hours", True),
        ("600 x 30 = 18 000 watts, and 14, 400 / 80 = 180", False),
        ("1 000 000 + 500 000 = 1 500 000 cars, 17 000/5 = 3 400", False),
        ("17 000/5 = 3 500", True),
        ("5 / 0 * 2 = 10", True),
        ("10 + 18 = 28 * 0.25 = 7", False),
        ("2 + 3 * 4 = 20, no, 14", False),
        ("7 - 3 - 2 = 6. Wait, 7 - 3 - 2 = 2.", False),
    ],
)
def test_equations_as_solutions_of_gsm8k_have_them(text: str, expected: bool) -> None:
    assert states_a_false_equation(text) == expected


@pytest.mark.parametrize("text", ["5/0 = 0", "17 ÷ 5 = 2 R 7", "7 + 8 = 4 (mod 12)", "17/5 = 3", "80 - 5 = 76!"])
def test_what_has_no_true_reading_is_false(text: str) -> None:
    assert states_a_false_equation(text)


@given(st.text(alphabet="0123456789 .…=+-*/()\\{}overlinRr余,no", max_size=60))
def test_any_text_can_be_read(text: str) -> None:
    states_a_false_equation(text)


def _expansion(numerator: int, denominator: int) -> tuple[int, str, str]:
    """Return the whole part of a fraction, the digits before its period, and its period; "0" where it ends."""
    whole, rest = divmod(numerator, denominator)
    seen: dict[int, int] = {}
    digits = ""
    while rest not in seen:
        seen[rest] = len(digits)
        digit, rest = divmod(rest * 10, denominator)
        digits += str(digit)
    return whole, digits[: seen[rest]], digits[seen[rest] :]
