"""Labels that people gave: CIFAR-10N and CIFAR-100N (Wei et al. 2022; not in the paper), the published images annotated again.

Images and right labels stay the published ones; an image's annotation is looked up by its position in the published training set, so
it is the same in every part, split and seed. Where only the first classes are kept (``dataset.num_classes``), an annotation outside of
them counts as right. How often which class is mistaken is not known beforehand and is counted on the run's training images.
"""

from __future__ import annotations

import io
from _codecs import encode
from dataclasses import dataclass
from typing import Any

import numpy as np

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
    import torch  # whatever else reads noise needs none of it

    ((name, content),) = FILES[clean.dataset].read(clean.folder).items()
    # A pickle may ask for any function: these make arrays of the old format that the files are in, and no other is called.
    reconstruct: Any = (np.empty(0).__reduce__()[0], "numpy.core.multiarray._reconstruct")
    with torch.serialization.safe_globals([reconstruct, np.ndarray, np.dtype, np.dtypes.Int64DType, encode]):
        arrays = torch.load(io.BytesIO(content), weights_only=True)
    published, given = (arrays[key][clean.positions].astype(np.int64) for key in ("clean_label", annotators[config.annotator]))
    if not np.array_equal(published, clean.labels):
        raise UserError(f"noise=human: the right labels in {clean.folder / name} are not those of dataset={clean.dataset}.")
    return np.where(given < clean.num_classes, given, clean.labels)
