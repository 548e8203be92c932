"""What all command lines of the suite share: mistakes as one line, exit codes, stop signals, aligned tables, types of options."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from types import FrameType

from repro.errors import EXIT_USER_ERROR, Interrupted, UserError


def exit_code_of(command: Callable[[], int | None]) -> int:
    """Run a command and return its exit code: its own, or 0; 2 for a user's mistake, which is printed; 128 + N when stopped by signal N."""
    try:
        code = command() or 0
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Interrupted as stop:
        print("stopped; the same command resumes.", file=sys.stderr)
        return stop.exit_code
    except BrokenPipeError:
        # Whoever reads the output has seen enough (`... | head`). What Python would still write at its end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def whole_number(text: str) -> int:
    """Return an option's value, a whole number from 1."""
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from 1")
    return number


@contextlib.contextmanager
def stop_signals(numbers: Collection[int], received_one: Callable[[int, list[int]], None] | None = None) -> Iterator[list[int]]:
    """Collect the signals ``numbers`` that this process receives, in place of their usual effect, until the block ends.

    ``received_one`` is called with each signal and those before it. In a thread other than the main one nothing is collected: whoever
    started the thread handles signals. A forked child inherits the handler, and what is sent to it is not collected.
    """
    received: list[int] = []
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            return
        if received_one is not None:
            received_one(number, received)
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in numbers}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_table(lines: Sequence[Sequence[str]]) -> None:
    """Print lines of as many texts each, as columns that are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
