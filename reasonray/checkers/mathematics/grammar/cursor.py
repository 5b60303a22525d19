"""A position in the tokens of an answer."""

from __future__ import annotations

from reasonray.checkers.mathematics.lexer import Token, Unreadable


class Cursor:
    """The tokens of an answer, the position of the next one, and what encloses it."""

    def __init__(self, stream: list[Token], is_lenient: bool) -> None:
        self.stream = stream
        self.at = 0
        self.is_lenient = is_lenient
        self.enclosures: list[str] = []
        """What encloses the current position: brackets, "|", "integral"; "separator" awaits the bar of a set."""

    def peek(self, ahead: int = 0) -> Token | None:
        """Return a token ahead, or None behind the last one."""
        index = self.at + ahead
        return self.stream[index] if index < len(self.stream) else None

    def text(self, ahead: int = 0) -> str:
        """Return the text of a token ahead, "" if it is a word."""
        token = self.peek(ahead)
        return token.text if token and token.kind != "word" else ""

    def kind(self, ahead: int = 0) -> str:
        """Return the kind of a token ahead, "" behind the last one."""
        token = self.peek(ahead)
        return token.kind if token else ""

    def is_spaced(self) -> bool:
        """Return whether white space comes before the next token."""
        token = self.peek()
        return token is not None and token.spaced

    def word(self, ahead: int = 0) -> str:
        """Return a word ahead in lower case, "" if the token is no word."""
        token = self.peek(ahead)
        return token.text.casefold() if token and token.kind == "word" else ""

    def next(self) -> Token:
        """Take the next token."""
        token = self.peek()
        if token is None:
            raise self.fault("the answer ends too early")
        self.at += 1
        return token

    def accept(self, *texts: str) -> bool:
        """Take the next token if its text is one of these, and return whether it was."""
        if self.text() in texts and self.text():
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        """Take the token that has to come next."""
        if not self.accept(text):
            raise self.fault(f"{text!r} is missing")

    def fault(self, reason: str) -> Unreadable:
        """Return the error that says why the answer cannot be read."""
        return Unreadable(reason)

    def skip(self) -> bool:
        """Take the next token and return True, for use in conditions."""
        self.at += 1
        return True
