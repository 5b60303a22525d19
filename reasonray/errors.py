"""Faults that the user can cure; everything else is a crash and shows its traceback."""


class UserError(Exception):
    """A mistake that the user can cure: printed as one line, exit status 2, no traceback."""


class ConfigError(UserError):
    """The configuration is wrong; the message names the key and the cure."""
