"""Asymmetric noise of Patrini et al. 2017 (G10; not in the paper): a class is mistaken for one that looks like it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from repro.config.fields import setting
from repro.config.schema import NoiseConfig
from repro.data.mistakes import register_mistakes
from repro.data.types import Labels
from repro.errors import UserError

#: truck -> automobile, bird -> airplane, cat <-> dog, deer -> horse; five classes stay.
_CIFAR10 = {9: 1, 2: 0, 3: 5, 5: 3, 4: 7}
#: 2 -> 7, 3 -> 8, 5 <-> 6, 7 -> 1; five digits stay.
_DIGITS = {2: 7, 3: 8, 5: 6, 6: 5, 7: 1}

_TEN_CLASSES = {"cifar10": _CIFAR10, "digits": _DIGITS}


@dataclass
class PatriniNoiseConfig(NoiseConfig):
    """How often, and for what."""

    rate: float = setting(help="probability that a label of a class that can be mistaken is mistaken", at_least=0.0, at_most=1.0)
    # A kind of noise knows the number of classes and not their names, hence the rule for "auto".
    pairs: str = setting(
        "auto",
        help="which classes are mistaken: CIFAR-10's, the digits', each class for the next one (CIFAR-100's); "
        "auto: CIFAR-10's for ten classes, else the next one",
        choices=("auto", "cifar10", "digits", "next"),
    )


def _others(config: PatriniNoiseConfig, num_classes: int) -> list[Labels]:
    """Return the class (K,) that each class is mistaken for, itself where it cannot be mistaken: all with ``next``, else five of ten."""
    pairs = config.pairs if config.pairs != "auto" else ("cifar10" if num_classes == 10 else "next")
    if pairs in _TEN_CLASSES and num_classes != 10:
        raise UserError(f"noise.pairs={pairs}: needs 10 classes, and the dataset has {num_classes}. Use noise.pairs=next.")
    other = np.arange(num_classes)
    if pairs == "next":
        return [(other + 1) % num_classes]
    other[list(_TEN_CLASSES[pairs])] = list(_TEN_CLASSES[pairs].values())
    return [other]


register_mistakes("patrini", PatriniNoiseConfig, _others)
