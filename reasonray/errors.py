"""Errors that the user can fix; every other exception is a bug and shows its traceback."""


class UserError(Exception):
    """A mistake that the user can fix: printed as one line, exit status 2, no traceback."""


class ConfigError(UserError):
    """A wrong configuration; the message names the key and the cure."""


class UnreachableError(UserError):
    """Something that exists elsewhere cannot be reached from here; a machine with a network may reach it."""
