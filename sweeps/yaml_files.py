"""YAML files that say how something is to be done, read as pydantic models: specs, scales, tuned values, claims, clusters.

A mistake is a :class:`SpecError` that names the file and the path of the value: ``sweeps/specs/table6.yaml: rows[3].set: ...``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from repro.errors import UserError, did_you_mean, one_of

_Item = TypeVar("_Item")
_Read = TypeVar("_Read", bound="Model")

FOLDER = Path(__file__).resolve().parent


class SpecError(UserError):
    """A mistake in a file that a user wrote; the message begins with the file."""


def shown(path: Path) -> str:
    """Return ``path`` as messages name it: relative where it lies below the working folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


class _Loader(yaml.SafeLoader):
    """YAML in which no key stands twice and ``1e-4`` is a number."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key} is given twice, in the mapping that begins in line {node.start_mark.line + 1}.")
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789"))


@contextlib.contextmanager
def mistakes_of(path: Path, place: str = "") -> Iterator[None]:
    """Make every ``ValueError`` and ``UserError`` inside ``with`` a mistake at ``place`` of the file at ``path``."""
    try:
        yield
    except ValidationError as error:
        raise SpecError(f"{shown(path)}: {explain(error)}") from error
    except (ValueError, RecursionError, UserError) as error:
        raise SpecError(f"{shown(path)}: {place}{error}") from error


def read(model: type[_Read], path: Path) -> _Read:
    """Return the YAML file at ``path`` as a ``model``.

    Raises:
        SpecError: it cannot be read, or has a mistake.
    """
    with mistakes_of(path):
        try:
            parsed: _Read = _parse(model, path, path.read_bytes())
            return parsed
        except OSError as error:
            raise ValueError(f"it cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise ValueError(f"it is not valid YAML: {' '.join(str(error).split())}") from error


@lru_cache(maxsize=256)
def _parse(model: type[_Read], path: Path, content: bytes) -> _Read:
    return model.model_validate(loaded(content)).model_copy(update={"path": path})


def loaded(content: bytes) -> Any:
    """Return what a YAML file of this ``content`` says."""
    return yaml.load(content.decode(), _Loader)


def explain(error: ValidationError) -> str:
    """Return the first mistake that pydantic found, after the path of its value."""
    first = error.errors()[0]
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    return f"{where}: {first['msg']}".removeprefix(": ").replace("Value error, ", "")


def known(folder: str) -> dict[str, Path]:
    """Return the files of a ``folder`` of the suite (``specs``, ``scale``, ``shared``), by name."""
    return {path.stem: path for path in sorted((FOLDER / folder).glob("*.yaml"))}


def find(name: str, among: Mapping[str, Path], kind: str) -> Path:
    """Return the file of the ``kind`` (spec, scale, cluster) that a user calls ``name``: one of ``among``, or a path ending in ``.yaml``.

    Raises:
        SpecError: there is none of that name.
    """
    if name.endswith((".yaml", ".yml")):
        return Path(name).resolve()
    if name not in among:
        near = did_you_mean(name, among)
        raise SpecError(f"there is no {kind} '{name}'.{near} Known: {one_of(among)}; or give the path of a .yaml file.")
    return among[name]


def look_up(name: str, among: Mapping[str, _Item], what: str) -> _Item:
    """Return the item called ``name``; ``what`` begins the message if there is none.

    Raises:
        ValueError: there is none.
    """
    if name not in among:
        raise ValueError(f"{what} '{name}'.{did_you_mean(name, among)} There are: {one_of(among) or 'none'}.")
    return among[name]


class Model(BaseModel):
    """A mapping of a file: it knows all of its keys, and says which is nearest to an unknown one. ``path`` is set of a whole file."""

    model_config = ConfigDict(frozen=True)

    path: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: object) -> object:
        allowed = [field.alias or name for name, field in cls.model_fields.items() if not field.exclude]
        for key in data if isinstance(data, dict) else ():
            if key not in allowed:
                raise ValueError(f"there is no key '{key}'.{did_you_mean(str(key), allowed)} Allowed: {', '.join(allowed)}.")
        return data
