"""The settings of a run, put together as Hydra would, without it: a plan needs hundreds, and Hydra takes a quarter of a second for one.

``repro/conf/train.yaml`` names the default choices, a dataset brings others along, what is given wins. What needs Hydra's grammar, its
messages or a reference (``${...}``) is left to :mod:`repro.config.compose`; a test holds that the two agree on every choice.
"""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml
from omegaconf import MISSING

from repro.config import registry
from repro.config.fields import misfit
from repro.config.schema import AugmentConfig, Config, ExecConfig, OptimConfig, PathsConfig, SplitConfig, TrackerConfig

#: The groups whose choices are the presets under ``repro/conf``, and what they hold.
PRESETS: dict[str, type[Any]] = {
    "split": SplitConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "exec": ExecConfig,
    "tracker": TrackerConfig,
}

#: The groups whose choices are registered in code.
REGISTERED = registry.GROUPS


def assemble(given: Mapping[str, Any]) -> Config | None:
    """Return the settings that follow from ``given``: ``{"method": "one_hot", "optim.epochs": 3, ...}``; their limits are not checked.

    ``None`` where they cannot be put together: something is misspelt, missing or of the wrong type, or refers to something else.
    """
    chosen = {key: value for key, value in given.items() if key in PRESETS or key in REGISTERED}
    dataset = registry.choices("dataset").get(chosen.get("dataset", ""))
    choices = _default_choices() | ({} if dataset is None else dataset.overrides) | chosen
    if choices.get("optim") == "${model}":
        choices["optim"] = choices.get("model")
    sections = {group: _section(group, name) for group, name in choices.items()}
    if len(sections) < len(PRESETS) + len(REGISTERED) or None in sections.values():
        return None
    environ = os.environ
    paths = PathsConfig(environ.get("REPRO_RUNS", "runs"), environ.get("REPRO_DATA", "data"), environ.get("REPRO_SCRATCH"))
    config = Config(**sections, paths=paths)
    assert dataset is not None
    values = {f"{section}.{name}": value for section, fields in dataset.values.items() for name, value in fields.items()}
    values |= {key: value for key, value in given.items() if key not in chosen}
    if not all(_put(config, key, value) for key, value in values.items()):
        return None
    return None if _is_missing(config) else config


@cache
def _default_choices() -> dict[str, str]:
    defaults = yaml.safe_load((registry.CONF / "train.yaml").read_text(encoding="utf-8"))["defaults"]
    pairs = [pair for item in defaults if isinstance(item, dict) for pair in item.items()]
    return {group: name for group, name in pairs if name != MISSING}


def _section(group: str, name: Any) -> Any:
    """Return the settings of one choice as it is, or ``None`` where there is no such choice."""
    if not isinstance(name, str):
        return None
    if group in REGISTERED:
        choice = registry.choices(group).get(name)
        return None if choice is None else choice.config(name=name)
    values = _preset(group, name)
    if values is None:
        return None
    section: Any = PRESETS[group]()
    hints = _hints(section.__class__)
    for field, value in values.items():
        if field not in hints or misfit(value, hints[field]) is not None:
            return None
        setattr(section, field, _as(value, hints[field]))
    return section


@cache
def _preset(group: str, name: str) -> dict[str, Any] | None:
    path = registry.CONF / group / f"{name}.yaml"
    if not path.is_file():
        return None
    # YAML 1.1 reads 1e-4 as text, and OmegaConf does not; the presets write 1.0e-4, which both read as a number.
    found: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


def _put(config: Config, key: str, value: Any) -> bool:
    """Put a value into its field, and say whether the field is there and can hold it."""
    section, _, name = key.partition(".")
    owner: Any = getattr(config, section, None) if name else config
    kind = _hints(owner.__class__).get(name or section)
    value = list(value) if isinstance(value, tuple) else value
    refers = any(isinstance(item, str) and "$" in item for item in (value if isinstance(value, list) else [value]))
    if kind is None or dataclasses.is_dataclass(kind) or name == "name" or refers or misfit(value, kind) is not None:
        return False
    setattr(owner, name or section, _as(value, kind))
    return True


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind) if dataclasses.is_dataclass(kind) else {}


def _as(value: Any, kind: Any) -> Any:
    """Return ``value`` as a field of the type ``kind`` holds it: whole numbers as floats where it holds floats; lists as copies."""
    kinds = {kind, *typing.get_args(kind)}
    if isinstance(value, list):
        return [_as(item, typing.get_args(kind)[0]) for item in value]
    return float(value) if type(value) is int and float in kinds else value


def _is_missing(settings: Any) -> bool:
    values = (getattr(settings, field.name) for field in dataclasses.fields(settings))
    return any(value == MISSING or (dataclasses.is_dataclass(value) and _is_missing(value)) for value in values)
