"""One process at a time, by a lock on a file that the system frees when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path

import filelock

from repro.errors import UserError

logger = logging.getLogger(__name__)

#: What file systems without locks answer: NFS without its lock service, Lustre mounted without ``flock``, some of FUSE.
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)


class HeldError(UserError):
    """Another process holds the lock."""


@contextlib.contextmanager
def acquire(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock ``path`` until the block ends. Where the file system has none, a warning says so, and the block continues without it.

    Raises:
        HeldError: another process still holds it after ``timeout_s`` seconds.
        OSError: its folder cannot be written.
    """
    # With its default the library would put a file there that a killed process leaves behind for good.
    lock = filelock.FileLock(path, timeout=timeout_s, fallback_to_soft=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise HeldError(f"{path}: another process holds this lock. Wait for it, or stop it first.") from error
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        logger.warning("%s: this file system has no locks (%s). Do not start the same thing twice at once.", path.parent, error.strerror)
    try:
        yield
    finally:
        lock.release()
