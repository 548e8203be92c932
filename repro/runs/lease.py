"""Who may write into a run folder, where a lock alone cannot tell.

A lock ends with its process and, on many network file systems, at the border of a machine. A node that a cluster has given up may live
on and come back: its process still trains a run that has been started anew elsewhere. So whoever holds a run folder also has a lease:
a token in ``lease.json``. A successor claims the folder by putting its own token there, and whoever finds another token than its own
stops at once and writes nothing more, not even why.

Every write is preceded by a look at the token, so what an orphan can still do is to end the one write that it has begun; all of those
replace a whole file or repeat bytes that the successor writes itself. So of any number of processes that claim a folder at once, with locks
or without (:mod:`repro.runs.lock`), one goes on: the last to put its token there.
"""

from __future__ import annotations

import os
import socket
import uuid
from pathlib import Path

from repro.errors import Interrupted, UserError
from repro.files import read_json, write_json
from repro.runs.lock import HeldError, hold

FILE = "lease.json"

#: The exit code of a process that a successor has stopped.
EXIT_SUPERSEDED = 75


class Superseded(Interrupted):
    """Another process has claimed the run: this one must leave without a trace."""

    def __init__(self, folder: Path) -> None:
        super().__init__(0)
        self.args = (f"{folder}: another process has taken this run over; nothing more is written here.",)

    @property
    def exit_code(self) -> int:
        """The code that says so to whoever started this process."""
        return EXIT_SUPERSEDED


class Lease:
    """The right of this process to write into one run folder, as long as its token stands there."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        self._token = uuid.uuid4().hex

    def take(self) -> None:
        """Put this process's token into the folder; whoever had another one there stops."""
        write_json(self._path, {"token": self._token, "host": socket.gethostname(), "pid": os.getpid()})

    def check(self) -> None:
        """Check that the token stands there.

        Raises:
            Superseded: another one does, or none.
        """
        try:
            token = read_json(self._path)["token"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            token = None
        if token != self._token:
            raise Superseded(self._path.parent)


def claim(folder: Path) -> None:
    """Stop whoever writes into ``folder``, wherever it runs; it notices at its next write or sign of life."""
    Lease(folder).take()


def wait_for_lock(folder: Path, timeout_s: float) -> None:
    """Wait until nobody holds the lock of ``folder``.

    Raises:
        UserError: somebody still does after ``timeout_s`` seconds.
    """
    try:
        with hold(folder / ".lock", timeout_s=timeout_s):
            return
    except HeldError:
        raise UserError(
            f"{folder}: its process was told to stop {timeout_s:.0f} s ago and still holds the lock. End it, or wait for it."
        ) from None
