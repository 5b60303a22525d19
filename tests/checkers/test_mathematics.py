"""Laws of the equality of mathematical answers, and fresh examples of each kind of answer."""

import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reasonray.checkers import check
from reasonray.checkers.mathematics import Comparison, Unreadable, parse
from reasonray.records import Outcome
from tests.factories import a_problem


def is_right(gold: str, answer: str, **metadata: Any) -> bool:
    return check(a_problem(answer=gold, metadata=metadata), rf"\boxed{{{answer}}}").outcome is Outcome.CORRECT


# Expressions as nested tuples: a number, a letter, or an operation on two of them.

OPERATIONS = st.sampled_from("+-*/^")
EXPRESSIONS = st.recursive(
    st.integers(1, 12) | st.sampled_from("xyn"),
    lambda parts: st.tuples(OPERATIONS, parts, parts) | st.tuples(st.just("sqrt"), parts),
    max_leaves=6,
)


def in_latex(tree: Any) -> str:
    match tree:
        case ("+", one, two):
            return rf"\left({in_latex(one)} + {in_latex(two)}\right)"
        case ("-", one, two):
            return rf"\left({in_latex(one)} - {in_latex(two)}\right)"
        case ("*", one, two):
            return rf"{in_latex(one)} \cdot {in_latex(two)}"
        case ("/", one, two):
            return rf"\dfrac{{{in_latex(one)}}}{{{in_latex(two)}}}"
        case ("^", one, two):
            return rf"{{\left({in_latex(one)}\right)}}^{{{in_latex(two)}}}"
        case ("sqrt", one):
            return rf"\sqrt{{{in_latex(one)}}}"
        case _:
            return str(tree)


def in_plain_text(tree: Any) -> str:
    match tree:
        case ("sqrt", one):
            return f"sqrt({in_plain_text(one)})"
        case (sign, one, two):
            return f"({in_plain_text(one)}) {sign} ({in_plain_text(two)})"
        case _:
            return str(tree)


def turned(tree: Any) -> Any:
    """Return the same expression with its sums and products the other way round."""
    match tree:
        case (("+" | "*") as sign, one, two):
            return sign, turned(two), turned(one)
        case (sign, *parts):
            return (sign, *map(turned, parts))
        case _:
            return tree


def value(tree: Any, point: dict[str, Fraction]) -> complex:
    match tree:
        case ("sqrt", one):
            return value(one, point) ** 0.5
        case (sign, one, two):
            first, second = value(one, point), value(two, point)
            match sign:
                case "+":
                    return first + second
                case "-":
                    return first - second
                case "*":
                    return first * second
                case "/":
                    return first / second
                case _:
                    return first**second
        case str():
            return complex(point[tree])
        case _:
            return complex(tree)


def has_value(tree: Any) -> bool:
    try:
        values = [value(tree, {"x": Fraction(at), "y": Fraction(5, 3), "n": Fraction(2)}) for at in (1, 2, 3)]
    except (ArithmeticError, ValueError):
        return False
    return all(1e-6 < abs(number) < 1e6 and number.imag == 0 for number in values)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_an_expression_equals_itself_in_every_rendering(tree: Any) -> None:
    assume(has_value(tree))
    renderings = [in_latex(tree), in_plain_text(tree), in_latex(turned(tree)), in_plain_text(turned(tree))]
    for gold in renderings[:2]:
        for answer in renderings:
            assert is_right(gold, answer), (gold, answer)


@settings(max_examples=60, deadline=None)
@given(EXPRESSIONS)
def test_typesetting_does_not_change_a_verdict(tree: Any) -> None:
    assume(has_value(tree))
    gold = in_latex(tree)
    for answer in (
        f"${gold}$",
        f"{{{gold}}}",
        gold.replace(" ", r"\, "),
        gold.replace(r"\left", "").replace(r"\right", ""),
        gold.replace(r"\dfrac", r"\tfrac"),
        rf"\displaystyle {gold}",
        rf"\[ {gold} \]",
    ):
        assert is_right(gold, answer), answer


@settings(max_examples=80, deadline=None)
@given(EXPRESSIONS, EXPRESSIONS)
def test_verdicts_are_symmetric_and_a_changed_value_is_never_right(one: Any, two: Any) -> None:
    assume(has_value(one) and has_value(two))
    first, second = in_latex(one), in_latex(two)
    there, back = (Comparison().same(parse(gold), parse(answer)) for gold, answer in ((first, second), (second, first)))
    assert there is back
    points = [{"x": Fraction(at), "y": Fraction(5, 3), "n": Fraction(2)} for at in (1, 2, 3)]
    if any(abs(value(one, point) - value(two, point)) > 1e-6 * abs(value(one, point)) for point in points):
        assert there is not True, (first, second)


@settings(max_examples=60, deadline=None)
@given(
    EXPRESSIONS, st.integers(1, 9), st.sampled_from([r" + {}", r" - {}", r" \cdot 1{}", r" < {}", r", {}", r" = 1{}"])
)
def test_a_fragment_is_never_right(tree: Any, number: int, rest: str) -> None:
    assume(has_value(tree) and isinstance(tree, tuple))
    whole = in_latex(tree) + rest.format(number)
    assert not is_right(in_latex(tree), whole), whole
    assert not is_right(whole, in_latex(tree)), whole


SAME = r"""
1.\bar{6}   ←   5/3
0.\dot{1}2\dot{3}   ←   \frac{41}{333}
0.(36)   ←   \frac{4}{11}
\frac\alpha2   ←   \frac{\alpha}{2}
\frac a{b+1}   ←   a/(b+1)
\frac{7}8   ←   0.875
sqrt(12)   ←   2\sqrt3
exp(2)   ←   e^2
exp(-x)   ←   e^{-x}
ln(8)   ←   3\ln 2
12{,}345   ←   12345
12,\!345   ←   12345
1\,234\,567   ←   1234567
(-∞, 2] ∪ (3, ∞)   ←   x \le 2 \text{ or } x>3
x ≥ 4   ←   [4,\infty)
\{x \mid -1<x\le 3\}   ←   (-1,3]
\{x : x^2=4\}   ←   \{x\mid x^2=4\}
\mathbb{R}\setminus\{2\}   ←   x\ne 2
(-\infty,2)\cup(2,\infty)   ←   x\neq2
\{(1,2),(3,4)\}   ←   (3,4),(1,2)
(p,q)=(5,2)   ←   (p=5,q=2)
p=5, q=2   ←   (5,2)
(5,2)   ←   (p=5,q=2)
\begin{pmatrix}1\\2\\3\end{pmatrix}   ←   (1,2,3)
\langle 2,-1\rangle   ←   \begin{bmatrix}2\\-1\end{bmatrix}
\begin{bmatrix}1&0\\0&1\\\end{bmatrix}   ←   \begin{pmatrix}1&0\\0&1\end{pmatrix}
3\text{ cm}, 4\text{ cm}   ←   3, 4
3, 4   ←   3\text{ cm and }4\text{ cm}
3:45 PM   ←   15:45
7:05   ←   7:05 am
9:30\text{ a.m.}   ←   9:30 AM
\boldsymbol{x+1}   ←   x+1
\textcolor{red}{\frac{1}{2}}   ←   0.5
\color{blue}{7}   ←   7
\varnothing   ←   \emptyset
\text{no real solutions}   ←   \varnothing
]2;5]   ←   (2,5]
]-\infty;3[   ←   (-\infty,3)
\cos 60^\circ   ←   \frac12
\frac{1}{\cos 60^{\circ}}   ←   2
\sin(30°)   ←   0.5
6-8\mathrm{i}   ←   6-8i
2\mathrm{e}^{3}   ←   2e^3
\mathrm{e}^{\mathrm{i}\pi}   ←   -1
x^2+y^2=25   ←   25-x^2-y^2=0
2x+4y=6   ←   x+2y=3
y=\frac{6}{x}   ←   xy=6
x<5   ←   5>x
a_n = 2n+1   ←   2n+1
f(t)=t^2   ←   f(x)=x^2
g(x)=3x   ←   3x
n \equiv 2 \pmod 5   ←   n\equiv 7 \pmod{5}
|x-1|   ←   |1-x|
\sqrt{x^2}   ←   |x|
\lfloor 3.7\rfloor   ←   3
\lceil n/2\rceil   ←   \lfloor (n+1)/2\rfloor
(-1)^n   ←   \cos(n\pi)
n!   ←   n(n-1)!
\binom{n}{2}   ←   \frac{n(n-1)}{2}
\sum_{k=1}^n k   ←   \frac{n(n+1)}{2}
\log_2 32   ←   5
\log_3 x   ←   \frac{\ln x}{\ln 3}
\tan^{-1}(1)   ←   \frac\pi4
2\sin x\cos x   ←   \sin 2x
\sin^2 x   ←   1-\cos^2 x
\sqrt[3]{-8}   ←   -2
x^{2/3}   ←   \sqrt[3]{x^2}
\frac{1}{\sqrt2}   ←   \frac{\sqrt2}{2}
1.5\times10^{-3}   ←   0.0015
3.2e5   ←   320000
20\%   ←   0.2
20 percent   ←   20\%
\frac{3}{4}   ←   75\%
\$12.50   ←   12.5
2\frac{3}{4}   ←   11/4
2 3/4   ←   2.75
5\pm2   ←   3,7
x=\pm3   ←   3,-3
\{3,-3\}   ←   \pm 3
\frac{-3\pm\sqrt5}{2}   ←   \frac{-3-\sqrt5}{2}, \frac{\sqrt5-3}{2}
0\le x\le1   ←   [0,1]
x\in(0,1)\cup(2,3)   ←   0<x<1 \text{ or } 2<x<3
60\text{ km/h}   ←   60 km/h
72\text{ km/h}   ←   20\text{ m/s}
9.8\ \mathrm{m/s^2}   ←   9.8 m/s^2
9.8\,\mathrm{m\cdot s^{-2}}   ←   9.8\ \mathrm{m/s^2}
5\text{ kg}   ←   5000\text{ g}
2\text{ hours }30\text{ minutes}   ←   150\text{ min}
4:6   ←   2:3
1:2:3   ←   2:4:6
a:b=1:2   ←   a:b=2:4
\text{Monday}   ←   monday
\text{yes}   ←   Yes
\text{True}   ←   true
A, C   ←   C and A
\text{A and C}   ←   A,C
2^{10}   ←   1024
10^{100}   ←   10^{50}\cdot 10^{50}
\frac{2^{100}-1}{2^{100}}   ←   1-2^{-100}
f^{-1}(x)=x-1   ←   f^{-1}(x)=-1+x
\vec{v}=(1,2)   ←   (1,2)
2\mathbf{i}-\mathbf{j}   ←   \langle 2,-1\rangle
\hat{i}+\hat{j}   ←   (1,1)
x^3+C   ←   C+x^3
y=Ce^{2x}   ←   Ce^{2x}
\int_0^1 f(x)dx   ←   \int_0^1 f(t)\,dt
\infty   ←   +\infty
all reals   ←   (-\infty,\infty)
\mathbb{R}   ←   \text{all real numbers}
\frac{x^2-1}{x-1}   ←   x+1
e^{\ln x}   ←   x
\frac{d}{dx}f   ←   \frac{d}{dx} f
P(A\mid B)=\frac13   ←   \frac13
\begin{cases}x=1\\y=2\end{cases}   ←   x=1,y=2
\begin{cases} 1 & x>0\\ 0 & x\le0\end{cases}   ←   \begin{cases} 1 & x>0\\ 0 & \text{if }x\le0\end{cases}
k = 4 \text{ and } m = 7   ←   m=7, k=4
25\pi\text{ square feet}   ←   25\pi\text{ ft}^2
25\pi   ←   25\pi\text{ square units}
90^\circ   ←   \frac{\pi}{2}
\angle ABC = 60^\circ   ←   60^\circ
x=2\text{ only}   ←   2
1, 2, \ldots, n   ←   1,2,\dots,n
\frac{1}{2}\ln|x|+C   ←   \frac12\ln |x| + C
\sqrt{2+\sqrt3}   ←   \frac{\sqrt6+\sqrt2}{2}
\arctan 1+\arctan 2+\arctan 3   ←   \pi
(a+b)^2   ←   a^2+2ab+b^2
ab   ←   ba
xyz   ←   zyx
\frac{\sqrt3}{3}   ←   \frac1{\sqrt 3}
(x+1)^{10}   ←   {(1+x)}^{10}
x = -\frac{b}{2a}   ←   -b/(2a)
0.5   ←   \frac 12
\dfrac{7}{2}   ←   3\tfrac12
−3   ←   -3
１２   ←   12
3,5 \text{ and } 7   ←   \{3,5,7\}
\{x\in\mathbb{R}\mid x\neq 0\}   ←   (-\infty,0)\cup(0,\infty)
\{x \mid x \in \mathbb{R}, x > 1\}   ←   (1,\infty)
x>1\text{ and }x<5   ←   (1,5)
1<x<5   ←   5>x>1
x \leq -2 \text{ or } x \geq 2   ←   (-\infty,-2]\cup[2,+\infty)
(2,3]\cup\{5\}   ←   \{5\}\cup(2,3]
2\sqrt{3}+\sqrt{2}   ←   \sqrt2+2\sqrt3
\frac{3+\sqrt5}{2}   ←   \frac{3}{2}+\frac{\sqrt5}{2}
\sqrt{8}   ←   2\sqrt{2}
4!   ←   24
\frac{6!}{3!}   ←   120
\ln\frac{1}{e}   ←   -1
\log_{10}1000   ←   3
\cos(2x)   ←   2\cos^2x-1
\tan x   ←   \frac{\sin x}{\cos x}
e^{x+y}   ←   e^xe^y
x(x+1)   ←   x^2+x
(x-1)(x-2)=0   ←   x^2-3x+2=0
y-3=2(x-1)   ←   y=2x+1
\frac{x^2}{4}+\frac{y^2}{9}=1   ←   9x^2+4y^2=36
f(x)=\frac{1}{x}   ←   \frac1x
S_n=n^2   ←   n^2
a_n=3\cdot2^{n-1}   ←   a_n=\frac{3}{2}\cdot 2^n
|AB|=5   ←   5
P=\frac{1}{6}   ←   \frac{1}{6}
m=2\text{ or }m=-1   ←   -1, 2
m \in \{2,-1\}   ←   m=2\text{ or }m=-1
12\text{ cm}^2   ←   12\ \mathrm{cm}^2
12\text{ square centimeters}   ←   12 cm²
150\text{ miles}   ←   150
1{,}250\text{ dollars}   ←   \$1,250
45\text{ minutes}   ←   0.75\text{ hours}
x=\frac{\pi}{3}+2k\pi   ←   \frac{\pi}{3}+2\pi k
\text{The answer is }5   ←   5
\text{Yes}   ←   yes
\text{none}   ←   None
\overrightarrow{AB}   ←   \vec{AB}
i   ←   \mathrm{i}
\sqrt{-4}   ←   2i
(1+i)(1-i)   ←   2
\frac{1}{1+i}   ←   \frac{1-i}{2}
\begin{pmatrix}2&0\\0&2\end{pmatrix}   ←   2\begin{pmatrix}1&0\\0&1\end{pmatrix}
(2,-1,3)   ←   \langle 2,-1,3\rangle
6.0\times10^{23}   ←   6e23
\frac{5\pi}{6}   ←   150^\circ
30\text{ degrees}   ←   30^\circ
8:15\text{ p.m.}   ←   20:15
1\frac{1}{2}\text{ hours}   ←   90\text{ minutes}
100_{3}   ←   9
9   ←   100_3
\underline{5}   ←   5
\mathbf{x}   ←   x
{7}   ←   7
7.   ←   7
(7)   ←   7
\left(\frac{1}{2}\right)^{3}   ←   \frac18
2^{-3}   ←   0.125
\sqrt{x+1}\sqrt{x-1}   ←   \sqrt{x^2-1}
\frac{\sin 2x}{2\cos x}   ←   \sin x
n(n+1)/2   ←   \binom{n+1}{2}
2\cdot 3\cdot 5   ←   30
2 \times 10 ^ { 3 }   ←   2000
\frac{a+b}{c}   ←   \frac ac+\frac bc
Alice   ←   alice
\text{(A)}   ←   A
\textbf{B}   ←   B
"""
DIFFERENT = r"""
1.\bar{6}   ←   1.\bar{3}
1.\bar{6}   ←   1
0.\overline{12}   ←   0.12
2   ←   2+\sqrt{3}
5   ←   5 - cos(y)
\{x\mid x<3\}   ←   3
\{x\mid x<3\}   ←   x\le3
3,6,9,\ldots   ←   9
1.5   ←   (1,5)
12   ←   \langle 1,2\rangle
7   ←   7 \sqrt(3)
5   ←   5\text{ or so or more}
6   ←   6\text{ when }x>0
6   ←   6\text{ unless }n=1
8   ←   \text{at least }8
8   ←   \text{about twice }8
10   ←   10\mathrm{i}
2\pi   ←   2\mathrm{e}
4   ←   4\mathrm{e}^{2}
blue   ←   blue and yellow
dog   ←   cat
stop   ←   pots
x^2+1=0   ←   x^2+4=0
x^2=-1   ←   x^2=-4
\int f=2   ←   \int f=3
\lim_{x\to0} g(x)=1   ←   \lim_{x\to0} g(x)=2
\lim_{x\to0} g(x)=1   ←   \lim_{x\to1} g(x)=1
\ge7   ←   \le7
x\ge7   ←   x>7
g'(x)   ←   g(x)
g''(x)=2   ←   g'(x)=2
a_3   ←   a_4
a_{n+1}   ←   a_{n-1}
y=2x   ←   y=2x+0.001
x+y=3   ←   x+y=-3
x+y=3   ←   x-y=3
a=2b   ←   b=2a
(1,2]   ←   [1,2)
(1,2)   ←   (2,1)
\{1,2\}   ←   (1,2)
(1,2),(3,4)   ←   (1,2),(3,5)
x=1,y=2   ←   x=2,y=1
m=4,n=9   ←   9,4
\sqrt{2}   ←   -\sqrt2
\pm2   ←   2
x^2   ←   x^3
|x|   ←   x
\sqrt{x^2}   ←   -x
\ln 2   ←   \ln 3
\log_2 x   ←   \log_3 x
\sin x   ←   \cos x
\hat{x}   ←   \bar{x}
\vec{a}=(1,2)   ←   \vec{b}=(1,2)
3\text{ cm}   ←   3\text{ m}
3\text{ cm}^2   ←   3\text{ cm}
5\text{ apples}   ←   5\text{ oranges}
9:30 AM   ←   9:30 PM
9:30   ←   9:31
3:4   ←   4:3
20\%   ←   0.02
0.2   ←   20
1/3   ←   0.333
\pi   ←   3.1416
\frac{22}{7}   ←   \pi
e   ←   2.718
f(x)=x^2   ←   f(x)=2x
\begin{pmatrix}1&2\\3&4\end{pmatrix}   ←   \begin{pmatrix}1&2\\3&5\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix}   ←   \begin{pmatrix}1\\2\end{pmatrix}
\begin{vmatrix}1&2\\3&4\end{vmatrix}   ←   2
n\equiv1\pmod4   ←   n\equiv1\pmod 8
x>2\text{ and }x<5   ←   x>2\text{ or }x<5
ax+b, a>0   ←   ax+b, a<0
x+1\text{ for }x>0   ←   x+1\text{ for }x<0
\sum_{k=1}^n k   ←   \sum_{k=1}^n k^2
\sum_{k=1}^n a_k   ←   \sum_{k=0}^n a_k
\int_0^1 f(x)dx   ←   \int_0^2 f(x)dx
\int e^{x^2}dx   ←   \int e^{x^3}dx
y''+2y=0   ←   y''-2y=0
\frac{dy}{dx}=x   ←   \frac{dx}{dy}=x
x^3+C   ←   x^3
n!   ←   (n+1)!
\binom{n}{2}   ←   \binom{n}{3}
2^{100}   ←   2^{100}+1
10^{-50}   ←   0
x+10^{-60}   ←   x
C_6^2   ←   C_6^3
H_2O   ←   H_2O_2
\emptyset   ←   \{\emptyset\}
\emptyset   ←   0
\infty   ←   -\infty
\text{yes}   ←   \text{no}
\text{even}   ←   \text{not even}
\text{right}   ←   \text{right triangle}
1,2,3   ←   1,2
1,2,3   ←   1,2,3,4
1,1,2   ←   1,2
June 5   ←   June 6
2021-03-04   ←   2021-03-05
\frac{a}{b}   ←   \frac{b}{a}
a^b   ←   b^a
2(x+1)   ←   2x+1
2(3)   ←   23
x^{10}   ←   x^1 0
(x-1)^2+y^2=4   ←   (x+1)^2+y^2=4
\overline{AB}=5   ←   \overline{AC}=5
\triangle ABC   ←   \triangle ACD
\angle ABC=30^\circ   ←   \angle ABC=60^\circ
2\mathbf{i}+3\mathbf{j}   ←   3\mathbf{i}+2\mathbf{j}
7\text{ remainder }3   ←   7\text{ remainder }2
7   ←   7\text{ remainder }2
between 2 and 4   ←   between 2 and 5
no more than 3   ←   no less than 3
3   ←   3\text{ or so}
5   ←   5 minus 1
7   ←   seven and a half
4   ←   4\text{ times }x
2   ←   2 \text{ mod } 5
100   ←   100\text{ if possible}
12   ←   12 (mod 5)
x   ←   x + C
3\sqrt{2}   ←   3\sqrt{2}i
3   ←   3\hat{k}
3   ←   3\theta
9   ←   9\ldots
9   ←   9,\ldots
1,2,3,\ldots   ←   1,2,3
x>1   ←   x>1, x<5
(0,\infty)   ←   (0,\infty]
[0,1]   ←   \{0,1\}
\{0,1\}   ←   [0,1]
(1,2)   ←   1.2
0.3   ←   0.\bar{3}
0.\overline{3}   ←   0.\overline{33}1
\frac{1}{3}   ←   0.33\%
f(x)=x   ←   g(x)=x
f(2)=3   ←   f(3)=2
y=x^2   ←   x=y^2
y\le 2x+1   ←   y\ge 2x+1
y<2x   ←   y\le 2x
\sqrt[3]{2}   ←   3\sqrt{2}
\log_2 3   ←   \log_3 2
2^{3^2}   ←   64
(2^3)^2   ←   512
-2^2   ←   4
x^{-1}   ←   -x
\sin^{-1}x   ←   \frac{1}{\sin x}
\sin x^2   ←   \sin^2 x
5!   ←   5
\binom52   ←   \binom54
\lfloor x\rfloor   ←   \lceil x\rceil
a \cdot b   ←   a/b
\bar{x}   ←   x
\vec{u}\cdot\vec{v}   ←   0
A\cup B   ←   A\cap B
A\subset B   ←   B\subset A
n\in\mathbb{Z}   ←   n\in\mathbb{N}
x=2k\pi   ←   x=k\pi
2k\pi, k\in\mathbb{Z}   ←   k\pi, k\in\mathbb{Z}
\text{Tuesday}   ←   \text{Thursday}
\text{increasing}   ←   \text{decreasing}
not possible   ←   possible
\text{red, blue}   ←   \text{red, green}
3 km   ←   3 m
10 mph   ←   10 km/h
5^\circ\text{C}   ←   5^\circ\text{F}
\$5   ←   5\%
2:30   ←   2:45
12\text{ R }3   ←   12\text{ R }4
x_1   ←   x_1'
{a_n}   ←   a_{n-1}
\frac{d^2y}{dx^2}   ←   \frac{dy}{dx}
\int_0^1 x\,dx   ←   \int_0^1 x^2\,dx
\prod_{k=1}^3 k   ←   \sum_{k=1}^4 k
e^{2x}   ←   e^2x
\frac{x}{y+1}   ←   \frac{x}{y}+1
1/(x+1)   ←   1/x+1
\pm a   ←   a
\begin{cases}x+y=1\\x-y=3\end{cases}   ←   \begin{cases}x+y=3\\x-y=1\end{cases}
x=1\text{ and }y=2   ←   x=1\text{ or }y=2
1.234   ←   1234
1,234   ←   1.234
10^{-3}   ←   10^{-4}
0.001   ←   0.0011
123456789   ←   123456788
1.000001   ←   1
\frac{1}{0}   ←   0
0/0   ←   1
|x|=3   ←   x=3
(a,b)   ←   (b,a)
13 \mathrm{n}, 5 \mathrm{~d}   ←   13 \mathrm{n}, 6 \mathrm{~d}
B   ←   8
C   ←   \text{Not } C
(A)   ←   (A) or (B)
"""


def pairs(table: str) -> list[tuple[str, str]]:
    return [
        (gold.strip(), answer.strip()) for gold, _, answer in (row.partition("←") for row in table.strip().split("\n"))
    ]


@pytest.mark.parametrize(("gold", "answer"), pairs(SAME))
def test_the_same_answer_in_another_notation_is_right(gold: str, answer: str) -> None:
    assert is_right(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), pairs(DIFFERENT))
def test_another_answer_is_wrong_both_ways(gold: str, answer: str) -> None:
    assert not is_right(gold, answer)
    assert not is_right(answer, gold)


PAIRS = [line.split("\t") for line in (Path(__file__).parent / "notation.tsv").read_text("utf-8").splitlines()]
"""Verdict, gold answer, answer: how models write what a gold answer says, and what an adversary would."""


@pytest.mark.parametrize("verdict", ["right", "wrong"])
def test_answers_in_the_notations_of_models_are_told_apart(verdict: str) -> None:
    missed = [(gold, answer) for wanted, gold, answer in PAIRS if wanted == verdict != name_of_verdict(gold, answer)]
    assert not missed


def name_of_verdict(gold: str, answer: str) -> str:
    return "right" if is_right(gold, answer) else "wrong"


@pytest.mark.parametrize(
    ("gold", "answer", "number_format"),
    [
        ("1234.56", "1.234,56", ""),
        ("1.234,5", "1234,5", "decimal_comma"),
        ("3,25", "3,25", "decimal_comma"),
        ("12.345", "12345", "decimal_comma"),
        ("1,00,000", "100000", "indian"),
        ("12,34,567.5", "1234567.5", "indian"),
    ],
)
def test_numbers_are_read_as_the_problem_says(gold: str, answer: str, number_format: str) -> None:
    metadata = {"number_format": number_format} if number_format else {}
    assert is_right(gold, answer, **metadata)


def test_a_decimal_comma_is_a_list_where_nothing_says_otherwise() -> None:
    assert not is_right("3.25", "3,25")
    assert is_right("3.25", "3,25", number_format="decimal_comma")
    assert is_right("3,25", "3,25")


HOSTILE = [
    "9^{9^{9^{9^{9}}}}",
    "99999999!",
    "((((9!)!)!)!)!",
    r"\binom{999999999}{444444444}",
    "7^{9999999999}",
    r"7^{99999999999} \mod 10",
    r"\sum_{k=1}^{999999999} \frac{1}{k^{k}}",
    r"\prod_{k=1}^{999} \sum_{j=1}^{999} j^{k}",
    "(x+y+z+1)^{999} - (x+y+z)^{998}",
    r"\int_0^x e^{\sin(t^3)} \cos(t^{7}) dt",
    r"\sin(10^{10^{10}})",
    r"e^{e^{e^{e^{x}}}}",
    r"\frac{1}{" * 30 + "2" + "}" * 30,
    "(" * 2000,
    "{" * 1900 + "x" + "}" * 1900,
    "|" * 300,
    "x^" * 400 + "2",
    r"\sqrt{" * 35 + "2" + "}" * 35,
    "x" + "!" * 500,
    ", ".join(rf"\sqrt{{{number}}}" for number in range(60)),
    " + ".join(rf"\sin({number} x)" for number in range(200)),
    "1" * 3900,
    r"\begin{pmatrix}" + r"1&2\\" * 300 + r"\end{pmatrix}",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda answer: answer[:20])
@pytest.mark.parametrize("gold", ["x+1", r"\sqrt{2}", "10^{10^{10^{10}}} + x", ", ".join(map(str, range(60)))], ids=len)
def test_a_hostile_answer_is_decided_within_bounds(gold: str, answer: str) -> None:
    begun = time.process_time()
    assert not is_right(gold, answer)
    assert time.process_time() - begun < 0.5, "milliseconds; this leaves room for a slow machine"


PIECES = r"""\frac \sqrt { } ( ) [ ] \{ \} + - * / ^ _ = < > \le \ge \ne , ; : ! | 1 2 10 0.5 x y n i e f \pi \infty
\sin \log \ln \sum \int \lim \cup \cap \in \pm \text{ \mathrm{ \begin{cases} \end{cases} \begin{pmatrix} \end{pmatrix}
\\ & \left \right \cdot \times ^\circ \% ' \bar \vec \overline \binom \lfloor \rfloor \mid \to \mod and or not if $
\{x\mid \emptyset \mathbb{R} \angle d dx cm \approx \ldots \boxed{ ~ \, ° √ ½ ∞ ² é 元""".split()  # noqa: SIM905


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25), st.lists(st.sampled_from(PIECES), max_size=25))
def test_no_sequence_of_tokens_raises_or_takes_a_second(first: list[str], second: list[str]) -> None:
    gold, answer = " ".join(first), "".join(second)
    begun = time.process_time()
    outcome = check(a_problem(answer=gold), f"The answer is ${answer}$").outcome
    assert outcome is not Outcome.FAILED
    assert time.process_time() - begun < 1
    for text in (gold, answer):
        try:
            tree = parse(text)
        except Unreadable:
            continue
        assert Comparison().same(tree, tree) is True
