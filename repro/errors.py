"""Errors that a user can act on.

A :class:`UserError` names the field or the file, the value, what is allowed, and the nearest name or the next command, in at most five
lines. The command-line entry points print it without a traceback and exit with ``EXIT_USER_ERROR``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

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


def did_you_mean(wrong: str, allowed: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest allowed name, or an empty string when none is near.

    ``cutoff`` is the share of letters, of 0 to 1, that the two must have in common.
    """
    near = difflib.get_close_matches(wrong, list(allowed), n=1, cutoff=cutoff)
    return f" Did you mean '{near[0]}'?" if near else ""


def one_of(names: Iterable[str]) -> str:
    """Render the allowed names for an error message."""
    return ", ".join(sorted(names))


def first_of(names: Sequence[str], count: int = 4) -> str:
    """Render the first ``count`` names for a message, and how many more there are."""
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
