"""Counting what a program asks of CUDA, on a CUDA driver that does nothing.

Such a driver is a ``libcuda.so.1`` (and ``libnvrtc.so.13``) that is loaded before the real one. PyTorch's host code for CUDA then runs
for real: dispatch, determinism checks, the caching allocator, graph capture. Kernels do nothing, so no number means anything; but every
launch, copy and wait is counted. ``REPRO_NULL_CUDA`` names the folder of the two libraries, which export

    long nullcuda_count(int kind);  void nullcuda_reset(void);  const char *nullcuda_kind(int kind);
    void nullcuda_set_hook(void (*event)(int kind, const char *object, const char *what, size_t bytes));
"""

from __future__ import annotations

import collections
import ctypes
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]

#: Events that make the host wait for the device.
WAITS = ("stream sync", "device sync", "event sync")
#: What no step may do: wait, copy between host and device, or break the rules of graph capture.
FORBIDDEN = (*WAITS, "copy H2D", "copy D2H", "CAPTURE VIOLATION", "launched outside the capture while capturing")

_HOOK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t)


def folder() -> Path | None:
    """Return the folder that ``REPRO_NULL_CUDA`` names, or ``None``."""
    name = os.environ.get("REPRO_NULL_CUDA")
    return Path(name).expanduser().resolve() if name else None


def loaded() -> bool:
    """Say whether this process runs on a driver that does nothing."""
    return folder() is not None and "libcuda.so.1" in os.environ.get("LD_PRELOAD", "")


@dataclass
class Counts:
    """What happened inside :func:`counting`.

    Attributes:
        events: how often, by kind: ``launch`` (a kernel), ``library call`` (of cuDNN or cuBLAS), ``graph launch``, and others.
        places: of the kinds of :data:`FORBIDDEN`: how often, by kind and the innermost lines of the project.
    """

    events: Mapping[str, int] = field(default_factory=dict)
    places: collections.Counter[tuple[str, str]] = field(default_factory=collections.Counter)

    @property
    def forbidden(self) -> dict[str, int]:
        """Return ``{"KIND at FILE:LINE": times}`` of what no step may do."""
        return {f"{kind} at {place}": times for (kind, place), times in sorted(self.places.items())}


@contextmanager
def no_waiting() -> Iterator[Counts]:
    """Let PyTorch raise a RuntimeError where the block waits for a real device; nothing is counted."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield Counts()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@contextmanager
def counting() -> Iterator[Counts]:
    """Count what the block asks of the driver."""
    null = folder()
    assert null is not None
    library = ctypes.CDLL(str(null / "libcuda.so.1"))
    library.nullcuda_count.restype = ctypes.c_long
    library.nullcuda_kind.restype = ctypes.c_char_p
    kinds: list[str] = []
    while name := library.nullcuda_kind(len(kinds)):
        kinds.append(name.decode())
    counts = Counts()

    def event(kind: int, _: bytes, what: bytes, size: int) -> None:
        if kinds[kind] in FORBIDDEN:
            frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT)) and frame.filename != __file__]
            lines = [f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}" for frame in reversed(frames[-3:])]
            counts.places[kinds[kind], " < ".join(lines) or "another thread"] += 1

    hook = _HOOK(event)
    library.nullcuda_reset()
    library.nullcuda_set_hook(hook)
    try:
        yield counts
    finally:
        library.nullcuda_set_hook(_HOOK())
        counts.events = {kind: found for number, kind in enumerate(kinds) if (found := library.nullcuda_count(number))}
