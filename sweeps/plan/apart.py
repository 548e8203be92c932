"""What needs PyTorch, done by a process beside this one: a command that stays for days, or that only asks, is small without it."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, Pipe
from typing import TypeVar

from repro.errors import UserError

T = TypeVar("T")


class Apart:
    """A process that calls functions for this one; the first call starts it, and it lives until :meth:`close`."""

    def __init__(self) -> None:
        self._other: tuple[subprocess.Popen[bytes], Connection] | None = None

    def __call__(self, function: Callable[..., T], *arguments: object) -> T:
        """Return what ``function(*arguments)`` returns, or raise what it raises; what it prints is printed here.

        All of that must be such that pickle takes it. Where PyTorch is imported already, the call is made here: nothing would be saved.

        Raises:
            UserError: the other process was killed.
        """
        if "torch" in sys.modules:
            return function(*arguments)
        self._other = self._other or _start()
        try:
            self._other[1].send((function, arguments))
            text, error, result = self._other[1].recv()
        except (EOFError, ConnectionError):
            raise UserError("the process that plans was killed. If nobody killed it, there is too little memory on this machine.") from None
        print(text, end="")
        if error is not None:
            raise error
        found: T = result
        return found

    def close(self) -> None:
        """End the process, before this one waits for something else; the next call starts another one."""
        if self._other is not None:
            process, pipe = self._other
            process.terminate()
            process.wait()
            pipe.close()
            self._other = None


def _start() -> tuple[subprocess.Popen[bytes], Connection]:
    here, there = Pipe()
    # Ctrl-C at a terminal reaches both. This process says what becomes of it; what is blocked here at the start stays blocked there.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        process = subprocess.Popen([sys.executable, "-m", __name__, str(there.fileno())], pass_fds=[there.fileno()])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    there.close()
    return process, here


def _answer(pipe: Connection) -> None:
    """Make the calls that come through ``pipe``, until its other end is closed."""
    while True:
        try:
            function, arguments = pipe.recv()
        except EOFError:
            return
        error, result = None, None
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            try:
                result = function(*arguments)
            except Exception as caught:  # noqa: BLE001  # it is raised on the other side
                caught.add_note(traceback.format_exc())
                error = caught
        pipe.send((printed.getvalue(), error, result))


if __name__ == "__main__":
    _answer(Connection(int(sys.argv[1])))
