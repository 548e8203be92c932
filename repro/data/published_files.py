"""Files of published datasets: where they lie, whether they are the published ones, and how to get them.

Nothing here is downloaded unless it is asked for: a run that misses a file says which, and stops.
"""

from __future__ import annotations

import hashlib
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repro.config import registry
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError


@dataclass(frozen=True)
class PublishedFiles:
    """The files of one dataset, in the layout of the class of ``torchvision.datasets`` that downloads it; ``md5`` of each, by its path.

    Where no class downloads them, ``get`` says how to come by them.
    """

    dataset: str
    torchvision_class: str | None
    md5: Mapping[str, str]
    get: str = ""

    def read(self, folder: Path) -> dict[str, bytes]:
        """Return the content of every file below ``folder``, each checked against its md5.

        Raises:
            UserError: a file is missing, unreadable or not the published one.
        """
        contents = {}
        for name, expected in self.md5.items():
            try:
                contents[name] = (folder / name).read_bytes()
                problem = None if hashlib.md5(contents[name], usedforsecurity=False).hexdigest() == expected else "its content differs"
            except OSError as error:
                problem = error.strerror or str(error)
            if problem:
                get = self.get or (
                    "Put the published files there, set paths.data or $REPRO_DATA, or download them: "
                    f"python -m repro.data download {self.dataset} --folder {folder}"
                )
                raise UserError(f"dataset={self.dataset}: {folder / name} is not the published file, of md5 {expected}: {problem}.\n{get}")
        return contents

    def download(self, folder: Path) -> None:
        """Download what is missing or corrupted below ``folder``; a no-op when everything is there.

        Raises:
            UserError: the network, the server or the disk refuses, or what came is not what was published.
        """
        from torchvision import datasets

        assert self.torchvision_class is not None
        source: Any = getattr(datasets, self.torchvision_class)
        wanted = [folder / name for name, md5 in self.md5.items() if not datasets.utils.check_integrity(folder / name, md5)]
        try:
            for path in wanted:
                path.unlink(missing_ok=True)  # some classes look at names only
            if wanted:
                source(str(folder), download=True)
        except (OSError, RuntimeError, EOFError) as error:
            raise UserError(f"dataset={self.dataset}: the download from {source.url} failed ({error}). Run the command again.") from error
        self.read(folder)


def files_of(dataset: str) -> PublishedFiles | None:
    """Return the published files of a dataset; ``None`` where it comes with an installed package.

    Raises:
        UserError: there is no such dataset.
    """
    files: PublishedFiles | None = getattr(sys.modules[registry.get("dataset", dataset).build.__module__], "FILES", None)
    return files


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

    # All images of a class have the same superclass.
    groups = sorted(set(zip(test[f"{kind}labels"], test.get("coarse_labels", ()), strict=False)))
    superclasses = tuple(group for _, group in groups) or None
    return RawDataset(joined(train), joined([test]), tuple(meta[f"{kind}label_names"]), mean, std, superclasses)
