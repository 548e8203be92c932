"""What there is to choose from: methods, datasets, models and kinds of label noise.

A file under ``repro/methods``, ``repro/data/sources``, ``repro/models`` or ``repro/data/noises`` registers itself with one of the
decorators below; being there is enough. Each choice becomes an option of the Hydra group of the same name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from repro.errors import UserError, did_you_mean, one_of

Built = TypeVar("Built")

_PACKAGES = {
    "method": "repro.methods",
    "dataset": "repro.data.sources",
    "model": "repro.models",
    "noise": "repro.data.noises",
}

#: The groups whose choices are registered; those of the others are presets.
GROUPS = tuple(_PACKAGES)

#: The presets: one folder a group, one file a choice.
CONF = Path(__file__).resolve().parents[1] / "conf"


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
        config: the dataclass of its settings.
        build: the class or function that makes it.
        version: raised by hand when a change of the code changes its numbers; part of a run's identity.
        overrides: choices of other groups that this one brings along, such as a dataset its usual model.
        values: values of other sections that it brings along, as ``{"meta": {"batch_size": 100}}``.
        transition: of a kind of noise: the function that returns its transition matrix.
        size: of a dataset; without it the cost of its runs is not estimated.
    """

    group: str
    name: str
    config: type[Any]
    build: Any
    version: int = 1
    overrides: dict[str, str] = field(default_factory=dict)
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    transition: Any = None
    size: DatasetSize | None = None


_choices: dict[str, dict[str, Choice]] = {group: {} for group in _PACKAGES}


def _register(group: str, name: str, config: type[Any], **more: Any) -> Callable[[Built], Built]:
    def decorate(build: Built) -> Built:
        known = _choices[group].get(name)
        # Running a module as a script or reloading it registers it twice; two different files with one name are a bug.
        assert known is None or known.build.__module__ == build.__module__, f"two {group}s are named {name}"
        _choices[group][name] = Choice(group=group, name=name, config=config, build=build, **more)
        return build

    return decorate


def method(name: str, *, config: type[Any], version: int = 1) -> Callable[[Built], Built]:
    """Register a method: a class built as ``build(config, context)``, see :class:`repro.engine.method.Method`."""
    return _register("method", name, config, version=version)


def dataset(
    name: str,
    *,
    config: type[Any],
    overrides: dict[str, str] | None = None,
    values: dict[str, dict[str, Any]] | None = None,
    size: DatasetSize | None = None,
    version: int = 1,
) -> Callable[[Built], Built]:
    """Register a dataset: a function ``build(config, folder) -> RawDataset``.

    ``overrides`` and ``values`` bring along the dataset's usual model, augmentation, meta batch size and so on; what the user
    types wins over them. A setting called ``num_classes``, ``train_size``, ``test_size`` or ``side`` changes ``size``.
    """
    return _register("dataset", name, config, overrides=overrides or {}, values=values or {}, size=size, version=version)


def model(name: str, *, config: type[Any], version: int = 1) -> Callable[[Built], Built]:
    """Register an architecture: a function ``build(config, num_classes=, image_shape=) -> nn.Module``."""
    return _register("model", name, config, version=version)


def noise(name: str, *, config: type[Any], transition: Any, version: int = 1) -> Callable[[Built], Built]:
    """Register a kind of label noise: a function ``build(config, labels, num_classes, seed) -> noisy labels``.

    ``transition(config, num_classes)`` returns the matrix (K, K) with the probability that an image of class i is annotated as j.
    """
    return _register("noise", name, config, transition=transition, version=version)


def choices(group: str) -> dict[str, Choice]:
    """Return every choice of ``group`` by name, importing the files that register them on the first call."""
    _import_files(group)
    return _choices[group]


def registered(group: str) -> tuple[Choice, ...]:
    """Return the choices of ``group`` that this process has registered so far, without importing any."""
    return tuple(_choices[group].values())


def options(group: str) -> tuple[str, ...]:
    """Return the names to choose from in a group, registered or presets; none where ``group`` is no group."""
    return tuple(sorted(choices(group) if group in GROUPS else (path.stem for path in (CONF / group).glob("*.yaml"))))


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
        raise UserError(f"{group}={name}: there is no {group} of that name.{did_you_mean(name, known)} Allowed: {one_of(known)}.")
    return known[name]
