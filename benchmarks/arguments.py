"""What the command lines of the benchmarks share: types of arguments, and how a mistake of the user ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from repro.errors import EXIT_USER_ERROR, UserError


def count(text: str) -> int:
    """Return a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number of at least 1")
    return value


def list_of(allowed: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what turns ``a,b`` into a list of names, all of them ``allowed``."""

    def parse(text: str) -> list[str]:
        wrong = [name for name in text.split(",") if name not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]}: allowed are {', '.join(allowed)}")
        return text.split(",")

    return parse


def run(main: Callable[[], None]) -> None:
    """Run a command; a mistake of its user is one line and an exit code, not a traceback."""
    try:
        main()
    except UserError as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
