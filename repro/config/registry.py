"""What there is to choose from: methods, datasets, models and kinds of label noise.

A file under ``repro/methods``, ``repro/data/sources``, ``repro/models`` or ``repro/data/noises`` registers itself with one of the
decorators below; being there is enough. Each choice becomes an option of the Hydra group of the same name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, TypeVar

from repro.errors import UserError, did_you_mean

Built = TypeVar("Built")

_PACKAGES = {
    "method": "repro.methods",
    "dataset": "repro.data.sources",
    "model": "repro.models",
    "noise": "repro.data.noises",
}

#: The groups whose choices are registered; those of the others are presets.
GROUPS = tuple(_PACKAGES)


@dataclass(frozen=True)
class DatasetSize:
    """A dataset without its files, for plans: training and test images, their shape (C, H, W), and the number of classes."""

    train: int
    test: int
    image_shape: tuple[int, int, int]
    num_classes: int


@dataclass(frozen=True)
class Choice:
    """One registered option of a group.

    Attributes:
        group: ``method``, ``dataset``, ``model`` or ``noise``.
        name: what the user types, and the ``name`` field of ``config``.
        build: the class or function that makes it.
        config: the dataclass of its settings.
        version: raised by hand when a change of the code changes its numbers; part of a run's identity.
        overrides: choices of other groups that this one brings along, such as a dataset its usual model. What the user types wins.
        values: values of other sections that it brings along, as ``{"meta": {"batch_size": 100}}``. What the user types wins.
        transition: of a kind of noise: a function ``transition(config, num_classes)`` that returns the matrix (K, K) with the probability
            that an image of class i is annotated as j; without it, the matrix is counted on the run's training images.
        size: of a dataset; without it the cost of its runs is not estimated. Settings called ``num_classes``, ``train_size``,
            ``test_size`` and ``side`` change it.
    """

    group: str
    name: str
    build: Any
    config: type[Any]
    version: int = 1
    overrides: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    transition: Any = None
    size: DatasetSize | None = None


_choices: dict[str, dict[str, Choice]] = {group: {} for group in _PACKAGES}


def _register(group: str, name: str, **attributes: Any) -> Callable[[Built], Built]:
    def decorate(build: Built) -> Built:
        known = _choices[group].get(name)
        # Running a module as a script or reloading it registers it twice; two different files with one name are a bug.
        assert known is None or known.build.__module__ == build.__module__, f"two {group}s are named {name}"
        _choices[group][name] = Choice(group, name, build, **attributes)
        return build

    return decorate


#: ``@method(NAME, config=...)`` registers a class built as ``build(config, context)``, see :class:`repro.engine.method.Method`. It and the
#: decorators below take the attributes of :class:`Choice`.
method = partial(_register, "method")

#: Registers a function ``build(config, folder) -> RawDataset``.
dataset = partial(_register, "dataset")

#: Registers a function ``build(config, num_classes=, image_shape=) -> nn.Module``.
model = partial(_register, "model")

#: Registers a function ``build(config, clean, seed) -> noisy labels``; ``clean`` is a :class:`repro.data.types.CleanLabels`.
noise = partial(_register, "noise")


def choices(group: str) -> dict[str, Choice]:
    """Return every choice of ``group`` by name, importing the files that register them on the first call."""
    _import_files(group)
    return _choices[group]


def registered(group: str) -> tuple[Choice, ...]:
    """Return the choices of ``group`` that this process has registered so far, without importing any."""
    return tuple(_choices[group].values())


@cache
def _import_files(group: str) -> None:
    package = importlib.import_module(_PACKAGES[group])
    for module in pkgutil.walk_packages(package.__path__, prefix=f"{_PACKAGES[group]}."):
        importlib.import_module(module.name)


def get(group: str, name: str) -> Choice:
    """Return the choice of ``group`` called ``name``.

    Raises:
        UserError: there is none; the message lists the right names and the nearest one.
    """
    known = choices(group)
    if name not in known:
        raise UserError(f"{group}={name}: there is no such {group}.{did_you_mean(name, known)} Allowed: {', '.join(sorted(known))}.")
    return known[name]
