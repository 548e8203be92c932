"""A program in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time


class Terminal:
    """Types to a program and reads what it shows, without bells and escape sequences."""

    def __init__(self, command: list[str], environment: dict[str, str], columns: int = 130) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execvpe(command[0], command, environment)
        fcntl.ioctl(self._terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._shown = ""

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def until(self, wanted: str, limit_s: float = 200.0) -> str:
        """Return what is shown from here until ``wanted``."""
        end = time.monotonic() + limit_s
        while wanted not in self._shown:
            assert time.monotonic() < end, (wanted, self._shown)
            if select.select([self._terminal], [], [], 0.1)[0]:
                part = os.read(self._terminal, 65536).decode(errors="replace")
                if "\x1b[c" in part:  # what are you?
                    self.type("\x1b[?1;2c")
                if "]11;?" in part:  # which colour is behind the text?
                    self.type("\x1b]11;rgb:0000/0000/0000\x07")
                self._shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\a", "", self._shown + part)
        before, _, self._shown = self._shown.partition(wanted)
        return before

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)
