"""Closed lists of words and commands: functions, constants, function words of English, and fixed phrases.

What is on none of these lists is a variable, a unit's noun, or a text that is compared as text.
"""
# ruff: noqa: SIM905

from __future__ import annotations

from typing import Final

FUNCTIONS: Final = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot arcsec arccsc sinh cosh tanh coth sech csch arsinh arcosh"
    " artanh asin acos atan ln log lg exp sqrt gcd lcm max min det abs floor ceil sgn cbrt cis".split()
)
CONSTANT_WORDS: Final = {"pi": "pi", "infinity": "infty", "inf": "infty", "infty": "infty"}
GREEK: Final = frozenset(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi omicron rho varrho"
    " sigma varsigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega"
    " ell hbar aleph wp mho Re Im nabla partial".split()
)
SYNONYMS: Final = {
    **{
        "dfrac": "frac",
        "tfrac": "frac",
        "cfrac": "frac",
        "nicefrac": "frac",
        "sfrac": "frac",
        "dbinom": "binom",
        "tbinom": "binom",
    },
    **{"leq": "le", "leqslant": "le", "leqq": "le", "lt": "<", "geq": "ge", "geqslant": "ge", "geqq": "ge", "gt": ">"},
    **{"neq": "ne", "neg": "not", "varnothing": "emptyset", "oslash": "emptyset", "empty": "emptyset"},
    **{"cdotp": "cdot", "ast": "*", "bullet": "cdot", "dots": "ldots", "cdots": "ldots", "dotsc": "ldots"},
    **{"dotsb": "ldots", "vdots": "ldots", "colon": ":", "backslash": "setminus", "land": "and", "wedge": "and"},
    **{"lor": "or", "vee": "or", "rightarrow": "to", "longrightarrow": "to", "lvert": "|", "rvert": "|", "vert": "|"},
    **{"lVert": "norm", "rVert": "norm", "Vert": "norm", "|": "norm", "lbrace": "{", "rbrace": "}", "lbrack": "["},
    **{"rbrack": "]", "lparen": "(", "rparen": ")", "prime": "'", "degree": "circ", "mid": "mid", "vecu": "vec"},
    **{"overrightarrow": "vec", "widehat": "hat", "widetilde": "tilde", "arccsc": "arccsc", "Pr": "operator Pr"},
    **{"asin": "arcsin", "acos": "arccos", "atan": "arctan", "lg": "log", "bmod": "mod", "imath": "i", "jmath": "j"},
    **{"bigcup": "bigcup", "simeq": "approx", "thickapprox": "approx", "doteq": "approx", "cong": "cong"},
    **{"%": "%", "#": "#", "&": "&", "_": "_", "\\": "row", "newline": "row", "cr": "row", "hat": "hat", "in": "in"},
    **{"N": "mathbb N", "R": "mathbb R", "Z": "mathbb Z", "Q": "mathbb Q"},
}
IGNORED_COMMANDS: Final = frozenset("boxed fbox centering noindent displaylimits checkmark".split())

CONDITIONS: Final = frozenset(
    "where if for when whenever with provided unless such assuming given while otherwise except excluding".split()
)
REASONS: Final = frozenset("because since as which so giving found obtained using therefore hence thus".split())
CONSEQUENCES: Final = frozenset("which so giving therefore hence thus".split())
RETRACTIONS: Final = frozenset("but wait wrong incorrect actually rather instead mistake no or not".split())
HEDGES: Final = frozenset(
    "exactly simply just indeed clearly therefore thus then hence approximately about roughly precisely obviously is"
    " are the a an of number value values integer integers fraction sum total point points interval intervals set"
    " ordered pair pairs vector matrix solution solutions answer answers either both equal equals to given by"
    " equation only final result has have we get that let expression function both all".split()
)
TRAILING: Final = frozenset("only exactly total altogether respectively".split())

CLOSED_CLASS: Final = frozenset(
    "a an the of and or nor not no neither either both all any every each some few less more fewer greater larger"
    " smaller least most many much between twice thrice half double triple times than plus minus squared cubed unknown"
    " close near nearly almost under over above below without except but wrong incorrect wait actually maybe perhaps"
    " impossible undefined cannot factorial mod modulo multiple multiples divisible factor divisor power root logarithm"
    " prime range up down within outside inside to hundred hundreds possibly probably out divided choose halves thirds"
    " fourths quarters fifths sixths sevenths eighths ninths tenths hundredths thousandths thousand million billion"
    " trillion dozen is am are was were be been being it its this that these those if unless when where while whenever"
    " whether because since as which who whom whose so for from with by at in on into onto off about after before until"
    " during through across along against among around via per only other another same such else then there here how"
    " why what can could may might must shall should will would do does did done has have had having i you he she we"
    " they them their our my your his her us me one two three four five six seven eight nine ten eleven twelve thirteen"
    " fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety first"
    " second third solution solutions none nothing exactly at possible remainder base equal equals odd even negative"
    " positive nonnegative otherwise given such mean median mode nd th st rd too also again still yet never always"
    " instead rather product sum difference quotient inverse opposite reciprocal infinite infinitely finite true false"
    " yes or's".split()
)
"""Words that can change a value or a statement. A noun phrase after a number may hold none of them."""
CURRENCIES: Final = {"$": "dollar", "€": "euro", "£": "£", "¥": "yen", "₹": "rupee", "₩": "won", "rs": "rupee"}
"""Signs before a sum of money and the unit that each stands for."""
UNIT_FILLERS: Final = frozenset("of the a an per each total".split())

EMPTY: Final = "no solution"
PHRASES: Final = {
    **dict.fromkeys(
        (
            "no solution",
            "no solutions",
            "there is no solution",
            "there are no solutions",
            "no real solution",
            "no real solutions",
            "no solution exists",
            "empty set",
            "the empty set",
            "no solution ∅",
        ),
        EMPTY,
    ),
    **dict.fromkeys(
        ("does not exist", "dne", "doesn't exist", "no limit", "limit does not exist", "the limit does not exist"),
        "does not exist",
    ),
    **dict.fromkeys(
        (
            "all real numbers",
            "all reals",
            "all real",
            "the real numbers",
            "real numbers",
            "set of all real numbers",
            "the set of all real numbers",
            "the set of real numbers",
            "every real number",
            "any real number",
            "reals",
        ),
        "all real numbers",
    ),
    **dict.fromkeys(
        ("infinitely many", "infinitely many solutions", "infinite number of solutions", "infinite solutions"),
        "infinitely many solutions",
    ),
}
"""Fixed phrases and the phrase that stands for each group."""

RELATIONS: Final = {
    **{"=": "=", "==": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!="},
    **{"le": "<=", "ge": ">=", "ne": "!=", "approx": "~", "equiv": "≡", "in": "in", "notin": "notin", "mid": "mid"},
    **{"subset": "subset", "subseteq": "subseteq", "parallel": "parallel", "perp": "perp", "propto": "propto"},
    **{"to": "to", "cong": "cong", "sim": "similar", "ll": "ll", "gg": "gg", "iff": "iff", "Rightarrow": "implies"},
    **{"supset": "supset", "leftrightarrow": "iff", "nmid": "nmid"},
}
"""Signs and commands of relations, and the sign of the tree for each."""
