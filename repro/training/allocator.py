"""Keeping freed memory in the process, on Linux with glibc.

By default glibc asks the kernel for every large tensor and hands it back when the tensor is freed, so each step pays for zeroed pages
again. A meta step of ResNet18 at batch 128 / 256 on two cores took 8.7 s (median) with memory kept and 11.3 s without. The price is
that a process keeps its highest memory until it ends.
"""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3).
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let the C library keep what is freed for the next tensor. Return whether it could be told to; elsewhere nothing changes."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library, such as musl
        return False
    settings = {_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: -1}
    return all(mallopt(parameter, value) == 1 for parameter, value in settings.items())
