"""Files of published datasets: where they lie, whether they are the published ones, and how to get them.

Nothing here is downloaded unless it is asked for: a run that misses a file says which, and stops.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import pickle
import sys
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.config import registry
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError


@dataclass(frozen=True)
class PublishedFiles:
    """The files of one dataset, in the layout of the class of ``torchvision.datasets`` that downloads it; ``md5`` of each, by its path."""

    dataset: str
    torchvision_class: str
    md5: Mapping[str, str]

    def path(self, folder: Path, name: str) -> Path | None:
        """Return where the file ``name`` lies below ``folder``, as published or gzipped beside that place; ``None`` where it does not."""
        return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)

    def read(self, folder: Path) -> dict[str, bytes]:
        """Return the content of every file below ``folder``, each checked against its md5.

        Raises:
            UserError: files are missing, unreadable or not the published ones; the message says which and what to do.
        """
        command = f"python -m repro.data download {self.dataset} --folder {folder}"
        if missing := [name for name in self.md5 if self.path(folder, name) is None]:
            raise UserError(
                f"dataset={self.dataset}: not there:\n{self._listed(folder, missing)}\nPut them there, or download them: {command}"
            )
        contents = {}
        for name, expected in self.md5.items():
            path = self.path(folder, name) or folder / name
            try:
                contents[name] = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f"dataset={self.dataset}: {path} cannot be read ({getattr(error, 'strerror', None) or error}).") from error
            found = hashlib.md5(contents[name], usedforsecurity=False).hexdigest()
            if found != expected:
                raise UserError(
                    f"dataset={self.dataset}: {path} is damaged or is another file: its md5 is {found}, expected {expected}. "
                    f"Replace it by the published file, or let this do it: {command}"
                )
        return contents

    def _listed(self, folder: Path, names: Iterable[str]) -> str:
        return "\n".join(f"  {folder / name}  (md5 {self.md5[name]})" for name in names)

    def download(self, folder: Path) -> None:
        """Download what is missing or damaged below ``folder``; a no-op when everything is there.

        Raises:
            UserError: the network, the server or the disk refuses, or what came is not what was published.
        """
        from torchvision import datasets

        source: Any = getattr(datasets, self.torchvision_class)
        try:
            wanted = [folder / name for name, md5 in self.md5.items() if not datasets.utils.check_integrity(folder / name, md5)]
            if not wanted:
                return
            folder.mkdir(parents=True, exist_ok=True)
            for path in wanted:
                path.unlink(missing_ok=True)
            # Keep torchvision's progress bar out of log files.
            with contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO()):
                source(str(folder), download=True)
        except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
            raise UserError(
                f"dataset={self.dataset}: the download from {source.url} failed ({error}). "
                f"Run the command again, or put the files there by hand:\n{self._listed(folder, self.md5)}"
            ) from error
        self.read(folder)


def cifar_dataset(
    content: Mapping[str, bytes], *, kind: str = "", mean: tuple[float, float, float], std: tuple[float, float, float]
) -> RawDataset:
    """Return the dataset in CIFAR's pickled files ``content``: the training batches in their order, the test batch, the names.

    ``kind`` begins the names of the labels that are taken. ``mean`` and ``std`` are of the training pixels in [0, 1].
    """
    # A pickle can run any code. These have the md5 of the published files.
    *train, test, meta = (pickle.loads(part, encoding="latin1") for part in content.values())

    def joined(batches: list[dict[str, Any]]) -> ImageSet:
        images = np.concatenate([batch["data"] for batch in batches]).reshape(-1, 3, 32, 32)
        return ImageSet(images, np.concatenate([np.asarray(batch[f"{kind}labels"], dtype=np.int64) for batch in batches]))

    names = tuple(meta[f"{kind}label_names"])
    # All images of a class have the same superclass.
    groups = dict(zip(test[f"{kind}labels"], test.get("coarse_labels", ()), strict=False))
    superclasses = tuple(int(groups[label]) for label in range(len(names))) if len(groups) == len(names) else None
    return RawDataset(joined(train), joined([test]), names, mean, std, superclasses)


def files_of(dataset: str) -> PublishedFiles | None:
    """Return the published files of a dataset; ``None`` where it comes with an installed package.

    Raises:
        UserError: there is no such dataset.
    """
    files: PublishedFiles | None = getattr(sys.modules[registry.get("dataset", dataset).build.__module__], "FILES", None)
    return files
