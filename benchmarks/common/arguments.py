"""What the command lines of the benchmarks share: options, types of arguments, and how a user's mistake ends."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from repro.command import exit_code_of


def list_of(allowed: Sequence[str], joined: str = ",") -> Callable[[str], list[str]]:
    """Return what turns ``a,b`` into a list of names, all of them ``allowed``, or several of them ``joined`` by another sign."""

    def parse(text: str) -> list[str]:
        wrong = [name for name in text.replace(joined, ",").split(",") if name not in allowed]
        if wrong:
            raise argparse.ArgumentTypeError(f"{wrong[0]}: allowed are {', '.join(allowed)}")
        return text.split(",")

    return parse


def page_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser of the option that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    return parser


def say(text: str) -> None:
    """Tell whoever waits how far it is; results alone go to the standard output."""
    print(text, file=sys.stderr, flush=True)


def run(main: Callable[[], None]) -> None:
    """Run a command; a mistake of its user is one line and an exit code, not a traceback."""
    sys.exit(exit_code_of(main))
