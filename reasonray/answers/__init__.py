"""The final answer of a text: where it is, and by which rule. Pure functions of the text, linear in its length.

`final_answer` finds candidates with their positions (boxes.py, statements.py), drops those that the text takes back
(retractions.py), and returns the last of the rest. `boxed_answers`, `last_boxed` and `after_hashes` read the gold
answers of data sets.
"""

from reasonray.answers.candidate import Candidate, ExtractedAnswer
from reasonray.answers.final import after_hashes, boxed_answers, candidates, final_answer, last_boxed
from reasonray.answers.markup import is_formula, is_words, strip_markup

__all__ = [
    "Candidate",
    "ExtractedAnswer",
    "after_hashes",
    "boxed_answers",
    "candidates",
    "final_answer",
    "is_formula",
    "is_words",
    "last_boxed",
    "strip_markup",
]
