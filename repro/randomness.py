"""Randomness as a function of names.

Every random number of a run is a pure function of ``(seed, stream name, position)``. No generator lives from one epoch to the
next, so a resumed run needs no generator state to draw what an uninterrupted one would have drawn, and two runs that share a
seed but differ in a method share their initial weights, batch order and augmentation.

Streams: ``init`` (weights), ``order`` (batch order), ``augment``, ``noise`` (label noise), ``folds`` (splits), ``method``.

Numbers come from the raw 64-bit output of NumPy's PCG64, which NumPy promises never to change (its distributions, such as
``permutation``, carry no such promise), and from sorting: the same on every platform and in every process.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt


class Stream:
    """A named stream of random numbers: ``Stream(seed, "order", epoch)``.

    ``names`` are the seed followed by any strings or integers that tell this stream from every other one.
    """

    def __init__(self, *names: int | str) -> None:
        digest = hashlib.sha256("/".join(map(str, names)).encode()).digest()
        self._bits = np.random.PCG64(int.from_bytes(digest[:16], "little"))

    def raw(self, count: int) -> npt.NDArray[np.uint64]:
        """Return ``count`` raw 64-bit numbers."""
        return self._bits.random_raw(count)

    def uniform(self, count: int) -> npt.NDArray[np.float64]:
        """Return ``count`` numbers in [0, 1), 53 bits each."""
        return (self.raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, count: int, high: int) -> npt.NDArray[np.int64]:
        """Return ``count`` integers in [0, high)."""
        return np.floor(self.uniform(count) * high).astype(np.int64)

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """Return a random order of ``range(count)``."""
        return np.argsort(self.raw(count), kind="stable").astype(np.int64)

    def torch_seed(self) -> int:
        """Return a seed for ``torch.manual_seed``."""
        return int(self.raw(1)[0] >> np.uint64(1))


@contextlib.contextmanager
def seeded(stream: Stream) -> Iterator[None]:
    """Let PyTorch's own generators start from ``stream`` inside, and go on afterwards as if nothing had been drawn."""
    import torch

    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream.torch_seed())
        yield


def visit_order(seed: int, epoch: int, num_instances: int) -> npt.NDArray[np.int64]:
    """Return the training rows (N,) in the order in which a run with ``seed`` visits them after ``epoch`` completed epochs."""
    return Stream(seed, "order", epoch).permutation(num_instances)


def sha256_of(*arrays: npt.NDArray[np.generic]) -> str:
    """Return the sha256 over the shapes, types and little-endian bytes of ``arrays``."""
    digest = hashlib.sha256()
    for array in arrays:
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little.dtype.str}{little.shape}".encode())
        # Not a copy of the bytes: images may fill half of the memory.
        digest.update(np.ascontiguousarray(little).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def make_deterministic(*, threads: int | None, allow_tf32: bool) -> None:
    """Make PyTorch repeat itself bit for bit on one machine and one device kind.

    ``threads`` is the number of CPU threads of one operation (``None`` keeps PyTorch's choice). It is part of what makes sums
    repeat on a CPU, so a resumed run keeps the number it started with.
    """
    # cuBLAS reads this when it is first used; without it, deterministic matrix products raise.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    # The same as torch.use_deterministic_algorithms(True), which would also import the compiler: a second and 145 MB.
    torch.set_deterministic_debug_mode("error")
    # Otherwise every new tensor is filled with NaN before it is written: a help in finding bugs, and a pass over the memory.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    torch.backends.cudnn.allow_tf32 = allow_tf32
    if threads is not None:
        torch.set_num_threads(threads)
