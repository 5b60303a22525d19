"""Tokens of an answer in LaTeX, in plain text, in Unicode or in a mixture of them.

Every character of the answer ends in a token or is typesetting (spaces, sizes, colours, delimiters). A character that
is neither makes the answer unreadable.
"""
# ruff: noqa: SIM905

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from reasonray.answers import strip_markup
from reasonray.checkers import units
from reasonray.checkers.mathematics import vocabulary

MAX_CHARACTERS: Final = 4000
MAX_TOKENS: Final = 1500
MAX_DEPTH: Final = 40


class Unreadable(ValueError):
    """The answer is not accounted for by the grammar, token by token."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token. Its kind is number, letter, word, command, operator or clock."""

    kind: str
    text: str
    spaced: bool = False
    """Whether white space comes before it."""
    upright: bool = False
    """Whether it is set upright or is prose, as units, words and constants are."""


_VULGAR = "1/2 1/3 2/3 1/4 3/4 1/5 2/5 3/5 4/5 1/6 5/6 1/8 3/8 5/8 7/8".split()
_UNICODE = {
    **dict.fromkeys("−–﹣‒", "-"),
    **dict.fromkeys("\u00a0\u202f\u2009\u2007\u3000", r"\,"),
    **{"⁄": "/", "÷": r"\div ", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "∙": r"\cdot "},
    **{"≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "≡": r"\equiv "},
    **{"±": r"\pm ", "∓": r"\mp ", "∞": r"\infty ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin "},
    **{"∅": r"\emptyset ", "⌀": r"\emptyset ", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}"},
    **{"ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "∑": r"\sum "},
    **{"∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ", "∠": r"\angle ", "△": r"\triangle ", "…": r"\ldots "},
    **{"⋯": r"\ldots ", "→": r"\to ", "⟨": r"\langle ", "⟩": r"\rangle ", "⌊": r"\lfloor ", "⌋": r"\rfloor "},
    **{"⌈": r"\lceil ", "⌉": r"\rceil ", "∣": "|", "°": r"^\circ ", "′": "'", "″": "''", "’": "'", "‘": "'"},
    **{"∼": r"\sim ", "—": r"\emdash ", "∖": r"\setminus ", "⊂": r"\subset ", "⊆": r"\subseteq ", "º": r"^\circ "},
    **{"“": '"', "”": '"', "，": ",", "；": ";", "：": ":", "（": "(", "）": ")", "。": ".", "、": ",", "％": "%"},
    **{"¢": r"\text{ cents}", "¹": "^1", "²": "^2", "³": "^3"},
    **{
        chr(code): rf"\{name} "
        for code, name in zip(
            (*range(0x3B1, 0x3C2), *range(0x3C3, 0x3CA)),
            "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho"
            " sigma tau upsilon phi chi psi omega".split(),
            strict=True,
        )
    },
    **{"Γ": r"\Gamma ", "Δ": r"\Delta ", "Θ": r"\Theta ", "Λ": r"\Lambda ", "Π": r"\Pi ", "Σ": r"\Sigma "},
    **{"Φ": r"\Phi ", "Ψ": r"\Psi ", "Ω": r"\Omega ", "ϕ": r"\phi ", "ϵ": r"\epsilon "},
    **{
        character: rf"\frac{{{part[0]}}}{{{part[2]}}}"
        for character, part in zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", _VULGAR, strict=True)
    },
}
_TRANSLATION = str.maketrans(_UNICODE)
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ]+")
_RAISED_TO = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣ", "0123456789+-nx")
_LOWERED = re.compile("[₀₁₂₃₄₅₆₇₈₉ₙ]+")
_LOWERED_TO = str.maketrans("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n")

_TYPESETTING = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|left\b(?!arrow)|right\b(?!arrow)|[bB]ig+[lrm]?|middle"
    r"|hfill|nonumber|normalsize|large|Large|small|rm|bf|it|mathstrut|strut|phantom\{[^{}]*\}"
    r"|hspace\{[^{}]*\}|label\{[^{}]*\}|hline)(?![A-Za-z])"
)
_LEFT_DOT = re.compile(r"\\(?:left|right)\s?\.")
_COLOUR = re.compile(r"\\(?:textcolor|colorbox)\s?\{[^{}]*\}|\\color\s?\{[^{}]*\}")
_THOUSANDS = re.compile(r"(?<![\d.,}])(\d{1,3})((?:(?:,?\\!\s*,?|\{,\}\s?|\\,|,\\[,;: ]|\\ |\\:|~)\d{3})+)(?!\d)")
_MARKED_THOUSANDS = re.compile(r"(?<![\w.{}'^])\d{1,3}(?:(?:'\d{3})+|(?:_\d{3})+)(?![\w'])")
_CHOOSE = re.compile(r"\{([^{}]{1,80})\\choose([^{}]{1,80})\}")
_EMPTY_BASE = re.compile(r"\{\}\s*(?=[_^])")

_MASTER = re.compile(
    r"""(?P<space>(?:\s|\\[ ,;:!>]|~|\\(?:quad|qquad|enspace|thinspace)(?![A-Za-z])|\\/)+)
      |(?P<date>(?<![\d.])\d{4}-\d{2}-\d{2}(?![\d.]))
      |(?P<clock>(?<![\d:])\d{1,2}\s?:\s?\d{2}(?:\s|\\[ ,~]|~)*(?:\\(?:text|mathrm)\s?\{\s?)?[~\s]*
            (?P<half>[aApP])\.?\s?[mM](?![A-Za-z])\.?\}?)
      |(?P<clock0>(?<![\d:.])(?P<hour>[01]?\d|2[0-3])\s?:\s?(?P<minute>0\d)(?![\d:.]))
      |(?P<endless>(?P<head>\d*\.\d*?)(?P<cycle>\d|\d\d+?)(?P=cycle){2,}(?:\.\.\.+|\\[lc]?dots(?![A-Za-z])))
      |(?P<repeating>(?P<whole>\d*)\.(?P<fixed>\d*)(?:\\(?:overline|bar)\s?(?:\{(?P<period>\d+)\}|(?P<one>\d))
            |\\dot\s?\{?(?P<first>\d)\}?(?:(?P<inner>\d*)\\dot\s?\{?(?P<last>\d)\}?)?)
        |(?P<whole2>\d*)\.(?P<fixed2>\d*)\((?P<period2>\d+)\)(?![\dA-Za-z]))
      |(?P<number>(?:\d+(?:,\d{3})+(?![\d,])(?:\.\d+)?|\d+(?:\ \d{3})+(?![\d/])(?:\.\d+)?
              |\d+\.\d+|\d+\.(?![\d.])|\.\d+|\d+)
            (?:[eE](?P<exponent>[+-]?\d{1,4})(?![\d.A-Za-z]))?)
      |(?P<command>\\(?:[A-Za-z]+\*?|[{}|%$&\#_\\]))
      |(?P<run>[A-Za-z]+)
      |(?P<money>[€£¥₹₩])
      |(?P<dots>\.\.\.+)
      |(?P<operator><=|>=|!=|==|[-+*/^_=<>(){}\[\]|,;:.!'"&%?@])""",
    re.VERBOSE,
)
_TEXT_COMMANDS = frozenset(
    "text textbf textit textrm textnormal textsf texttt mbox hbox mathrm mathbf mathit mathsf operatorname boldsymbol"
    " bm emph underline pmb mathnormal textup rm".split()
)
_PROSE_COMMANDS = frozenset("text textbf textit textrm textnormal textsf texttt mbox hbox emph textup".split())
_GLUED_FUNCTION = re.compile(r"(arcsin|arccos|arctan|sin|cos|tan|cot|ln|log|sqrt)([a-z]|theta|pi|alpha|beta)")


def tokens(text: str, number_format: str = "") -> list[Token]:
    """Return the tokens of an answer.

    Args:
        text: the answer as it was written.
        number_format: "decimal_comma" to read `1.234,56`, "indian" to read `1,00,000`, "" for neither.

    Raises:
        Unreadable: a character has no meaning, or the answer is too long or too deep.
    """
    if len(text) > MAX_CHARACTERS:
        raise Unreadable("too long")
    lexer = _Lexer(number_format)
    lexer.read_all(_normalised(text))
    if lexer.braces:
        raise Unreadable("braces do not balance")
    return _without_alignment(lexer.tokens)


def _without_alignment(found: list[Token]) -> list[Token]:
    """Drop the marks `&` next to signs of relations: x &= 1."""
    signs = [token.kind != "word" and token.text in vocabulary.RELATIONS for token in found]
    near = zip(found, [False, *signs], [*signs[1:], False], strict=False)
    return [token for token, before, after in near if token.text != "&" or not (before or after)]


def _normalised(text: str) -> str:
    """Return a text in ASCII without what only sets type."""
    text = strip_markup(text.replace("...", r"\ldots "))
    if not text.isascii():
        text = _RAISED.sub(lambda run: "^{" + run.group().translate(_RAISED_TO) + "}", text)
        text = _LOWERED.sub(lambda run: "_{" + run.group().translate(_LOWERED_TO) + "}", text)
        text = text.translate(_TRANSLATION)
        text = "".join(map(_ascii, text))
    text = _MARKED_THOUSANDS.sub(lambda match: re.sub(r"\D", "", match[0]), text.replace("**", "^"))
    if "\\" in text or "{" in text or "~" in text:
        text = _COLOUR.sub("", _LEFT_DOT.sub("", text))
        text = _TYPESETTING.sub(" ", text)
        text = _THOUSANDS.sub(lambda match: match[1] + re.sub(r"\D", "", match[2]), text)
        text = text.replace("{,}", ",").replace("{:}", ":").replace(r"\!", "")
        text = _CHOOSE.sub(r"\\binom{\1}{\2}", _EMPTY_BASE.sub(" ", text))
    return text


def _ascii(character: str) -> str:
    if character.isascii() or character in "€£¥₹₩":
        return character
    if (digit := unicodedata.digit(character, None)) is not None:
        return str(digit)
    folded = unicodedata.normalize("NFKC", character)
    return folded if folded.isascii() or character.isalpha() else character


class _Lexer:
    """Turns a normalised text into tokens, with its nesting and its mode (mathematics or prose)."""

    def __init__(self, number_format: str) -> None:
        self.tokens: list[Token] = []
        self.depth = 0
        self.braces = 0
        self._format = number_format
        self._spaced = False

    def read_all(self, text: str) -> None:
        """Read a whole answer: text between dollar signs is mathematics, the rest of such an answer is prose."""
        text = text.replace(r"\(", "$").replace(r"\)", "$").replace(r"\[", "$").replace(r"\]", "$")
        text = text.replace("$$", "$")
        plain = text.replace(r"\$", "")
        if plain.count("$") % 2 or "$" not in plain:
            self._read(text.replace(r"\$", "$"), is_prose=False)
            return
        for index, part in enumerate(re.split(r"(?<!\\)\$", text)):
            self._spaced = True
            self._read(part.replace(r"\$", "$"), is_prose=index % 2 == 0)

    def _read(self, text: str, is_prose: bool, is_upright: bool = False) -> None:
        position = 0
        while position < len(text):
            if text[position] == "$":
                self._add("word", "$")
                position += 1
                continue
            match = _MASTER.match(text, position)
            if match is None:
                run = re.match(r"[^\W\d_a-zA-Z][^\W\d_]*", text[position:])
                if run is None:
                    raise Unreadable(f"the character {text[position]!r}")
                self._add("word", run.group().casefold(), upright=True)
                position += run.end()
                continue
            position = match.end()
            kind = match.lastgroup
            if match["space"]:
                self._spaced = True
            elif match["command"]:
                position = self._command(text, position, match["command"][1:], is_prose)
            elif match["run"]:
                self._letters(match["run"], is_prose, is_upright)
            elif match["clock"]:
                self._add("clock", match["clock"][0 : match.start("half") - match.start()] + match["half"].casefold())
            elif match["clock0"]:
                self._add("clock", f"{match['hour']}:{match['minute']}")
            elif match["endless"]:
                self._add("number", f"{match['head']}({match['cycle']})")
            elif match["date"]:
                self._add("word", match["date"])
            elif match["money"]:
                self._add("word", match["money"])
            elif match["dots"]:
                self._add("word", "…")
            elif match["repeating"]:
                self._add("number", _repeating(match))
            elif match["number"]:
                position = self._number(text, match)
            else:
                assert kind
                self._operator(match["operator"])
            if len(self.tokens) > MAX_TOKENS:
                raise Unreadable("too long")

    def _add(self, kind: str, text: str, upright: bool = False) -> None:
        self.tokens.append(Token(kind, text, self._spaced, upright))
        self._spaced = False

    def _operator(self, operator: str) -> None:
        if operator in "({[":
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise Unreadable("too deep")
        elif operator in ")}]":
            self.depth -= 1
        self.braces += (operator == "{") - (operator == "}")
        self._add("operator", operator)

    def _number(self, text: str, match: re.Match[str]) -> int:
        number = match["number"]
        is_listed = self.depth > 0
        if self._format == "decimal_comma" and not is_listed:
            localised = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?(?![\d.,])|\d+,\d+(?![\d,])").match(
                text, match.start()
            )
            if localised:
                self._add("number", localised.group().replace(".", "").replace(",", "."))
                return localised.end()
        elif self._format == "indian" and not is_listed:
            localised = re.compile(r"\d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?![\d,])").match(text, match.start())
            if localised:
                self._add("number", localised.group().replace(",", ""))
                return localised.end()
        elif not is_listed and (both := re.compile(r"\d{1,3}(?:\.\d{3})+,\d+(?![\d,.])").match(text, match.start())):
            self._add("number", both.group().replace(".", "").replace(",", "."))
            return both.end()
        if "," in number and (is_listed or not re.match(r"\d{1,3},", number)):
            number = number.partition(",")[0]
            self._add("number", number)
            return match.start() + len(number)
        if " " in number and not re.match(r"\d{1,3} ", number):
            number = number.partition(" ")[0]
            self._add("number", number)
            return match.start() + len(number)
        self._add("number", number.replace(",", "").replace(" ", ""))
        return match.end()

    def _letters(self, run: str, is_prose: bool, is_upright: bool) -> None:
        folded = run.casefold()
        if is_prose:
            if len(run) == 1 and (run not in "aAI" or not self._is_word_ahead()):
                self._add("letter", run, upright=True)
            elif folded in vocabulary.FUNCTIONS or folded in vocabulary.CONSTANT_WORDS:
                self._add("command", vocabulary.CONSTANT_WORDS.get(folded, folded), upright=True)
            else:
                self._add("word", run, upright=True)
            return
        if len(run) == 1:
            self._add("letter", run, is_upright)
        elif run in vocabulary.FUNCTIONS or folded in vocabulary.CONSTANT_WORDS:
            self._add("command", vocabulary.CONSTANT_WORDS.get(folded, run), is_upright)
        elif run in vocabulary.GREEK:
            self._add("command", run)
        elif glued := _GLUED_FUNCTION.fullmatch(run):
            self._add("command", glued[1])
            self._letters(glued[2], is_prose, is_upright)
        elif (
            len(run) > 3
            or folded in vocabulary.CLOSED_CLASS
            or (units.is_known(run) and (is_upright or self._follows_value()))
        ):
            self._add("word", run, upright=True)
        else:
            for letter in run:
                self._add("letter", letter, is_upright)

    def _is_word_ahead(self) -> bool:
        return True

    def _follows_value(self) -> bool:
        return bool(self.tokens) and (
            self.tokens[-1].kind == "number" or self.tokens[-1].text in (")", "}", "pi", "/", "per")
        )

    def _command(self, text: str, position: int, name: str, is_prose: bool) -> int:
        if name in _TEXT_COMMANDS:
            return self._text(text, position, name, is_prose)
        if name in ("begin", "end"):
            environment = re.compile(r"\s?\{([a-z]+)\*?\}(?:\s?\{[lcr| ]*\})?").match(text, position)
            if environment is None:
                raise Unreadable(f"\\{name} without an environment")
            self.depth += 1 if name == "begin" else -1
            self.braces += 1 if name == "begin" else -1
            self._add("command", f"{name} {environment[1]}")
            return environment.end()
        if name in ("{", "}"):
            self._operator_named(name)
            return position
        if name in vocabulary.IGNORED_COMMANDS:
            self._spaced = True
            return position
        self._add("command", vocabulary.SYNONYMS.get(name, name))
        return position

    def _operator_named(self, name: str) -> None:
        self.depth += 1 if name == "{" else -1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too deep")
        self._add("operator", "\\" + name)

    def _text(self, text: str, position: int, name: str, is_prose: bool) -> int:
        begin = re.compile(r"\s*\{").match(text, position)
        if begin is None:
            single = re.compile(r"\s*([A-Za-z0-9])").match(text, position)
            if single is None:
                raise Unreadable(f"\\{name} without its text")
            self._named(name, single[1])
            return single.end()
        end = _closing_brace(text, begin.end())
        content = text[begin.end() : end]
        if len(content.strip()) == 1 and content.strip().isalpha() and content.strip().isascii():
            self._named(name, content.strip())
        elif name in _PROSE_COMMANDS:
            self._spaced = self._spaced or content[:1].isspace()
            if "$" in content:
                for index, part in enumerate(content.split("$")):
                    self._read(part, is_prose=index % 2 == 0)
            else:
                self._read(content, is_prose=True, is_upright=True)
            self._spaced = self._spaced or content[-1:].isspace()
        elif name == "operatorname":
            word = "".join(content.split())
            self._add("command", word if word in vocabulary.FUNCTIONS else f"operator {word}")
        else:
            is_plain = name in ("boldsymbol", "bm", "mathbf", "mathit", "underline", "pmb", "mathnormal")
            self._spaced = self._spaced or content[:1] in " ~"
            self._add("operator", "{")
            self._read(content, is_prose=False, is_upright=not is_plain)
            self._add("operator", "}")
        return end + 1

    def _named(self, name: str, letter: str) -> None:
        """Add one letter in a face of its own. Bold i, j, k are unit vectors, other bold letters plain ones."""
        if name in ("mathbf", "boldsymbol", "bm", "textbf") and letter in "ijk":
            self._add("command", f"basis {letter}")
        elif letter.isdigit():
            self._add("number", letter)
        else:
            self._add("letter", letter, upright=name not in ("mathbf", "boldsymbol", "bm", "mathit"))


def _closing_brace(text: str, position: int) -> int:
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, position):
        depth += (match.group() == "{") - (match.group() == "}")
        if depth == 0:
            return match.start()
    raise Unreadable("a brace is not closed")


def _repeating(match: re.Match[str]) -> str:
    """Return a repeating decimal as `whole.fixed(period)`."""
    if match["period2"]:
        return f"{match['whole2'] or '0'}.{match['fixed2']}({match['period2']})"
    period = match["period"] or match["one"]
    if period is None:
        period = match["first"] + ((match["inner"] or "") + match["last"] if match["last"] else "")
    return f"{match['whole'] or '0'}.{match['fixed']}({period})"
