"""The registered networks, small enough for a test."""

from typing import Any

from torch import nn

from repro.config import registry

COLOR = (3, 32, 32)

#: Settings that make each architecture small.
SMALL: dict[str, dict[str, Any]] = {
    "resnet18": {"width": 4},
    "vgg16": {},
    "alexnet": {},
    "wrn_28_10": {"depth": 10, "widen_factor": 1, "dropout": 0.3},
    "digits_cnn": {"width": 4},
    "small_cnn": {"block": "residual"},
    "resnet_cifar": {"depth": 8},
    "cnn_9": {"width": 8},
}


def build_model(name: str, shape: tuple[int, int, int] = COLOR, num_classes: int = 10, **settings: Any) -> nn.Module:
    choice = registry.get("model", name)
    return choice.build(choice.config(name=name, **settings), num_classes=num_classes, image_shape=shape)
