"""Errors that a user can act on.

Every mistake a user can make ends in a :class:`UserError`: one message that names the field or the file, the value that was
found, what is allowed, and what to do. The command-line entry points print it without a traceback and exit with ``EXIT_USER_ERROR``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_USER_ERROR = 2


class UserError(Exception):
    """A mistake in the input of a command; its message is complete and needs no traceback."""


class Interrupted(BaseException):
    """The run was asked to stop by a signal and has saved its state.

    A ``BaseException``, so that no ``except Exception`` on the way out mistakes a clean stop for a failure.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells report it."""
        return 128 + self.signal_number


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed name, or an empty string when none is near."""
    near = difflib.get_close_matches(wrong, list(allowed), n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""


def one_of(names: Iterable[str]) -> str:
    """Render the allowed names for an error message."""
    return ", ".join(sorted(names))
