"""The two ways in which a command can end badly, each with one line for the user."""

from __future__ import annotations

__all__ = ["RunError", "UserError", "printable"]


class UserError(Exception):
    """A mistake in what the user gave: usage, configuration, an unknown or broken plugin. Exit code 2."""

    exit_code = 2


class RunError(Exception):
    """The run itself failed: a reward that raised, a full disk. Exit code 1."""

    exit_code = 1


def printable(text: str) -> str:
    """A text in one line, whatever the names in it are made of: what does not print is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
