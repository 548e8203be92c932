"""Labels that people gave: CIFAR-10N and CIFAR-100N (Wei et al. 2022; not in the paper), the published images annotated again.

Images and right labels stay the published ones; an image's annotation is looked up by its position in the published training set, so
it is the same in every part, split and seed. Where only the first classes are kept (``dataset.num_classes``), an annotation outside of
them counts as right. How often which class is mistaken is not known beforehand and is counted on the run's training images.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.published_files import PublishedFiles
from repro.data.types import CleanLabels, Labels
from repro.errors import UserError, one_of

_GET = (
    "The human annotations of CIFAR-10N and CIFAR-100N (licence CC BY-NC 4.0: not for commercial use) are CIFAR-10_human.pt and "
    "CIFAR-100_human.pt in the folder data/ of https://github.com/UCSC-REAL/cifar-10-100n. Put them where the datasets lie."
)

#: The published annotations of each dataset that has some.
FILES = {
    "cifar10": PublishedFiles("cifar10", None, {"CIFAR-10_human.pt": "96644db5574813cae939af5f7f2a0aec"}, get=_GET),
    "cifar100": PublishedFiles("cifar100", None, {"CIFAR-100_human.pt": "a67b45c1d7992051865b5c755bd68bb1"}, get=_GET),
}

#: What each annotator is called in the files.
_ANNOTATORS = {
    "cifar10": {
        "aggregate": "aggre_label",
        "random1": "random_label1",
        "random2": "random_label2",
        "random3": "random_label3",
        "worst": "worse_label",
    },
    "cifar100": {"noisy": "noisy_label"},
}


@dataclass
class HumanNoiseConfig(NoiseConfig):
    """Whose annotations."""

    annotator: str = setting(
        help="CIFAR-10: one of three people drawn at random (random1, ...), the majority of the three, or a wrong one of the three where "
        "there is one (worst); CIFAR-100: the one who was asked (noisy)",
        choices=tuple(name for names in _ANNOTATORS.values() for name in names),
    )


@registry.noise("human", config=HumanNoiseConfig)
def build(config: HumanNoiseConfig, clean: CleanLabels, seed: int) -> Labels:
    """Return the labels (N,) that people gave; ``seed`` changes nothing.

    Raises:
        UserError: nobody annotated the dataset again, or not so; the file is missing, not the published one, or of other images.
    """
    if clean.dataset not in FILES:
        raise UserError(f"noise=human: there are no human annotations of dataset={clean.dataset}, only of {one_of(FILES)}.")
    annotators = _ANNOTATORS[clean.dataset]
    if config.annotator not in annotators:
        raise UserError(f"noise.annotator={config.annotator}: dataset={clean.dataset} has {one_of(annotators)}.")
    ((name, content),) = FILES[clean.dataset].read(clean.folder).items()
    arrays = read_arrays(clean.folder / name, content)
    published, given = (arrays[key][clean.positions].astype(np.int64) for key in ("clean_label", annotators[config.annotator]))
    if not np.array_equal(published, clean.labels):
        raise UserError(f"noise=human: the right labels in {clean.folder / name} are not those of dataset={clean.dataset}.")
    return np.where(given < clean.num_classes, given, clean.labels)


class _ArraysOnly(pickle.Unpickler):
    """Makes NumPy arrays, numbers, texts and containers of them. A pickle may ask for any function, and running it may do anything."""

    _ALLOWED: Mapping[str, Any] = {
        "numpy.core.multiarray._reconstruct": np.empty(0).__reduce__()[0],
        "numpy.ndarray": np.ndarray,
        "numpy.dtype": np.dtype,
        # The bytes of an array, in the old format that the files are in.
        "_codecs.encode": lambda text, encoding: text.encode("latin1"),
    }

    @override
    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return self._ALLOWED[f"{module}.{name}"]


def read_arrays(path: Path, content: bytes) -> dict[str, Any]:
    """Return the arrays, by name, in the ``content`` of a file that ``torch.save`` wrote at ``path``; nothing else in it is run.

    Raises:
        UserError: it holds something else.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
            return dict(_ArraysOnly(io.BytesIO(archive.read(name))).load())
    except (pickle.UnpicklingError, zipfile.BadZipFile, ValueError) as error:
        raise UserError(f"{path} is not read: it must hold NumPy arrays and nothing else ({error}).") from error
