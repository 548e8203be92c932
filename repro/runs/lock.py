"""Locks on files: one process at a time, freed by the system when the holder dies; and what takes their place where there are none.

Some file systems refuse every lock: NFS without its lock service, Lustre mounted without ``flock``, some of FUSE. There the holder writes
a *note* beside the lock file, renews it every :data:`BEAT_S` seconds and removes it at the end. Of all who come at once one can make it.
The note of a process that is gone from this host, or that has not been renewed for :data:`STALE_S` seconds, is replaced; whoever
replaces it looks again after :data:`SETTLE_S` seconds whether its own is the one that stayed.

This is weaker than a lock. A holder that was suspended for :data:`STALE_S` seconds loses it without being told, and of those who replace
a dead holder's note at once, one that was held up for longer than :data:`SETTLE_S` seconds between its look and its own note takes it from
one that has begun. For a run the lease (:mod:`repro.runs.lease`) then decides: whoever took the run over last goes on, all others stop
before their next write. Nothing stops two of anything else, such as two uploads.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock

from repro.errors import UserError
from repro.files import peek, write_json

logger = logging.getLogger(__name__)

#: What file systems without locks answer.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)

#: Seconds between two signs of life in a note.
BEAT_S = 10.0

#: A note without a sign of life for so many seconds is that of a dead process.
STALE_S = 45.0

#: Seconds in which those who replace the same dead process's note show themselves.
SETTLE_S = 2.0

#: Seconds between two tries where a lock is waited for.
_POLL_S = 0.2


class HeldError(UserError):
    """Another process holds the lock."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: another process holds this lock. Wait for it, or stop it first.")


class UnwritableError(UserError, OSError):
    """The lock's folder cannot be written. An ``OSError`` too, for whoever knows a better remedy."""

    def __init__(self, path: Path, error: OSError) -> None:
        super().__init__(error.errno, error.strerror or str(error))
        self._folder = path.parent

    def __str__(self) -> str:
        return f"{self._folder} cannot be written: {self.strerror}. Make it writable."


@contextlib.contextmanager
def hold(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock ``path`` until the block ends, or what takes its place on a file system without locks.

    Raises:
        HeldError: another process still holds it after ``timeout_s`` seconds.
        UnwritableError: its folder cannot be written.
    """
    # With its default the library would put a file there that a killed process leaves behind for good.
    lock = filelock.FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout_s)
    except filelock.Timeout as error:
        raise HeldError(path) from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise UnwritableError(path, error) from error
        _say_what_is_weaker(path, error)
    else:
        try:
            yield
        finally:
            lock.release()
        return
    note = _Note(path)
    try:
        _take(note, path, timeout_s)
    except OSError as error:
        raise UnwritableError(path, error) from error
    try:
        yield
    finally:
        note.give_back()


def process_exists(pid: int) -> bool:
    """Say whether a process of this host exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_said: list[Path] = []


def _say_what_is_weaker(path: Path, error: OSError) -> None:
    if not _said:
        _said.append(path)
        logger.warning(
            "%s: this file system has no locks (%s). A note that its holder renews takes their place, which is weaker: of two processes "
            "that start the same run at the same moment both may begin, and one then stops; so does one that was suspended for %.0f s. "
            "No result is harmed. Do not send a run to W&B, or submit to a cluster, from two places at once.",
            path.parent,
            error.strerror,
            STALE_S,
        )


def _take(note: _Note, path: Path, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while not note.take():
        if time.monotonic() >= deadline:
            raise HeldError(path)
        time.sleep(_POLL_S)


class _Note:
    """A file that says who holds a lock, and that it lives."""

    def __init__(self, lock: Path) -> None:
        self._path = lock.with_name(f"{lock.name}.holder")
        self._about = {"token": uuid.uuid4().hex, "host": socket.gethostname(), "pid": os.getpid()}
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._renew, daemon=True, name=f"{lock.name} note")

    def take(self) -> bool:
        """Try once to become the holder."""
        try:
            # Of all who make a file like this, also on different machines, one succeeds.
            with self._path.open("x") as file:
                json.dump(self._about, file)
        except FileExistsError:
            if self._lives():
                return False
            try:
                write_json(self._path, self._about)
            except FileNotFoundError:  # somebody holds the run folder by now and has tidied it up
                return False
            time.sleep(SETTLE_S)
            if not self._is_mine():
                return False
        self._beat.start()
        return True

    def give_back(self) -> None:
        self._stop.set()
        self._beat.join()
        if self._is_mine():
            self._path.unlink(missing_ok=True)

    def _renew(self) -> None:
        while not self._stop.wait(BEAT_S):
            # A sign of life that is missed is no loss: the next one may come in time.
            with contextlib.suppress(OSError):
                if not self._is_mine():
                    return
                os.utime(self._path)

    def _is_mine(self) -> bool:
        return bool(peek(self._path, "token") == self._about["token"])

    def _lives(self) -> bool:
        """Say whether the holder that the note names still shows signs of life."""
        try:
            with self._path.open() as file:
                renewed = os.fstat(file.fileno()).st_mtime
                about = json.load(file)
            if about["host"] == self._about["host"] and not process_exists(int(about["pid"])):
                return False
        except FileNotFoundError:
            return True  # given back at this moment; whoever waits tries again
        except (ValueError, KeyError, TypeError):
            pass  # just made, and not written yet
        # The clock of the file server, which has also set the note's time.
        with tempfile.TemporaryFile(dir=self._path.parent) as file_now:
            return os.fstat(file_now.fileno()).st_mtime - renewed < STALE_S
