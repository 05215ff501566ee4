"""The errors that a user can cause, and can mend."""

from __future__ import annotations


class NoisestepsError(Exception):
    """Bad input: one sentence that names the key or file and the remedy.

    The command line prints the message alone and exits with `exit_code`.
    """

    exit_code = 2


class ConfigError(NoisestepsError):
    """A value, key or file name in the configuration cannot be used."""


class DataError(NoisestepsError):
    """A file of a data set is missing, damaged or not what it should be."""


class StageError(NoisestepsError):
    """A stage cannot go on with what earlier stages left behind."""


class DivergedError(NoisestepsError):
    """Training produced a loss that is not a finite number."""

    exit_code = 3


class BusyError(NoisestepsError):
    """Another process is writing the same output."""

    exit_code = 4


def printable(text: str) -> str:
    """Escape what would break a line or steer a terminal, such as in a file's name."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )
