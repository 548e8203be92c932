"""Files of published datasets: where they lie, whether they are the published ones, and how to get them.

Nothing here is downloaded unless it is asked for: a run that misses a file says which, and stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import io
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro import registry
from repro.data.types import Images, ImageSet, Labels, RawDataset
from repro.errors import UserError


@dataclass(frozen=True)
class PublishedFiles:
    """The files of one dataset, in the layout that torchvision gives them.

    Attributes:
        dataset: its name here.
        torchvision_class: the class of ``torchvision.datasets`` that downloads it.
        md5: of each file, by its path below the data folder.
    """

    dataset: str
    torchvision_class: str
    md5: Mapping[str, str]

    def read(self, folder: Path) -> dict[str, bytes]:
        """Return the content of every file below ``folder``, each checked against its md5.

        Raises:
            UserError: files are missing, unreadable or not the published ones; the message says which and what to do.
        """
        missing = [name for name in self.md5 if not (folder / name).is_file()]
        if missing:
            raise UserError(
                f"dataset={self.dataset}: not there:\n{self._listed(folder, missing)}\n"
                f"Put them there, or download them: {self._command(folder)}"
            )
        return {name: self._checked(folder / name, expected, folder) for name, expected in self.md5.items()}

    def _checked(self, path: Path, expected: str, folder: Path) -> bytes:
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"dataset={self.dataset}: {path} cannot be read ({error.strerror}).") from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != expected:
            raise UserError(
                f"dataset={self.dataset}: {path} is damaged or is another file: its md5 is {found}, expected {expected}. "
                f"Replace it by the published file, or let this do it: {self._command(folder)}"
            )
        return content

    def _is_intact(self, name: str, folder: Path) -> bool:
        try:
            self._checked(folder / name, self.md5[name], folder)
        except UserError:
            return False
        return True

    def _listed(self, folder: Path, names: Iterable[str]) -> str:
        return "\n".join(f"  {folder / name}  (md5 {self.md5[name]})" for name in names)

    def _command(self, folder: Path) -> str:
        return f"python -m repro.data download {self.dataset} --folder {folder}"

    def download(self, folder: Path) -> None:
        """Download what is missing or damaged below ``folder``; a no-op when everything is there.

        Raises:
            UserError: the network, the server or the disk refuses, or what came is not what was published.
        """
        damaged = [folder / name for name in self.md5 if (folder / name).is_file() and not self._is_intact(name, folder)]
        if not damaged and all((folder / name).is_file() for name in self.md5):
            return
        from torchvision import datasets

        source: Any = getattr(datasets, self.torchvision_class)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in damaged:
                # torchvision takes a file of the right name for the right file.
                path.unlink()
            with _progress_on_a_terminal():
                source(str(folder), download=True)
        except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
            where = getattr(source, "url", None) or ", ".join(getattr(source, "mirrors", []))
            raise UserError(
                f"dataset={self.dataset}: the download from {where} failed ({error}). "
                f"Run the command again, or put the files there by hand:\n{self._listed(folder, self.md5)}"
            ) from error
        self.read(folder)


def _progress_on_a_terminal() -> contextlib.AbstractContextManager[object]:
    """Keep torchvision's progress bar out of log files."""
    return contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())


def download(name: str, folder: str | os.PathLike[str], *, report: Callable[[str], object] = print) -> None:
    """Download the files of the dataset called ``name`` below ``folder``, check them, and report in one line.

    Raises:
        UserError: there is no such dataset, or the download failed.
    """
    build = registry.get("dataset", name).build
    files = getattr(sys.modules[build.__module__], "FILES", None)
    if files is None:
        report(f"{name}: comes with an installed package, there is nothing to download.")
        return
    assert isinstance(files, PublishedFiles)
    files.download(Path(folder))
    report(f"{name}: complete and as published, below {folder}")


def cifar_dataset(
    content: Mapping[str, bytes],
    *,
    train: tuple[str, ...],
    test: str,
    meta: str,
    label_key: str,
    names_key: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    superclass_key: str | None = None,
) -> RawDataset:
    """Return the dataset in CIFAR's pickled files: names of files in ``content``, keys inside them, and its statistics."""
    names = tuple(_unpickle(content[meta])[names_key])
    return RawDataset(
        train=_cifar_set([content[name] for name in train], label_key),
        test=_cifar_set([content[test]], label_key),
        class_names=names,
        mean=mean,
        std=std,
        superclasses=None if superclass_key is None else _superclasses(_unpickle(content[test]), label_key, superclass_key, len(names)),
    )


def _superclasses(batch: Mapping[str, Any], label_key: str, superclass_key: str, num_classes: int) -> tuple[int, ...] | None:
    """Return the group of each class, where the batch has an image of every class; all images of a class are labelled with the same."""
    groups = dict(zip(batch[label_key], batch[superclass_key], strict=True))
    return tuple(int(groups[label]) for label in range(num_classes)) if len(groups) == num_classes else None


def _cifar_set(parts: list[bytes], label_key: str) -> ImageSet:
    batches = [_unpickle(part) for part in parts]
    images: Images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
    labels: Labels = np.concatenate([np.asarray(batch[label_key], dtype=np.int64) for batch in batches])
    return ImageSet(images, labels)


def _unpickle(content: bytes) -> dict[str, Any]:
    # A pickle can run any code. This one has the md5 of the published file.
    loaded: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return loaded


def idx_images(content: bytes) -> Images:
    """Return the images (N, 1, H, W) of a file in MNIST's IDX format: four big-endian 32-bit numbers, then the pixels."""
    _, count, height, width = np.frombuffer(content, dtype=">u4", count=4).tolist()
    # A copy, because PyTorch takes only arrays that may be written to.
    return np.frombuffer(content, dtype=np.uint8, offset=16).reshape(count, 1, height, width).copy()


def idx_labels(content: bytes) -> Labels:
    """Return the labels (N,) of a file in MNIST's IDX format: two big-endian 32-bit numbers, then a byte each."""
    return np.frombuffer(content, dtype=np.uint8, offset=8).astype(np.int64)
