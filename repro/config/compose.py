"""From what a user types to a checked :class:`repro.config.schema.Config`, through Hydra."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, cast, get_type_hints

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.config import registry
from repro.config.schema import Config, check
from repro.errors import UserError, did_you_mean

#: Lines of Hydra's messages that say nothing here: Python types, where it searched, and its hint of ``+``, which adds what no run reads.
_NOISE = ("To append", "full_key", "object_type", "reference_type", "Config search path")


@cache
def register_with_hydra() -> None:
    """Tell Hydra the schema and every registered choice. Idempotent."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group in registry.GROUPS:
        for choice in registry.choices(group).values():
            content: dict[str, Any] = {**choice.values, group: choice.config(name=choice.name)}
            content["defaults"] = [*({f"override /{other}": name} for other, name in choice.overrides.items()), "_self_"]
            store.store(group=group, name=choice.name, package="_global_", node=content)


def compose(overrides: Sequence[str]) -> Config:
    """Compose and check the settings of one run from ``key=value`` strings, as ``python -m repro`` does.

    Raises:
        UserError: a misspelt name, a value of the wrong type; or as :func:`to_config`.
    """
    register_with_hydra()
    GlobalHydra.instance().clear()
    with mistakes_explained(), hydra.initialize_config_module("repro.conf", version_base="1.3"):
        return to_config(hydra.compose("train", list(overrides)))


def to_config(composed: DictConfig) -> Config:
    """Turn the composed tree into a checked :class:`Config`.

    Raises:
        UserError: a setting has no value; or as :func:`repro.config.schema.check`.
    """
    taken_out = get_type_hints(Config).keys() - composed.keys()
    if missing := sorted(OmegaConf.missing_keys(composed) | taken_out):
        raise UserError(f"not set: {', '.join(missing)}. There is no default on purpose; add {' '.join(f'{name}=...' for name in missing)}")
    config = cast(Config, OmegaConf.to_object(composed))
    check(config)
    return config


@contextlib.contextmanager
def mistakes_explained() -> Iterator[None]:
    """Raise what Hydra raises for a mistake as a :class:`UserError` with its words, and the nearest name where a name is wrong."""
    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        lines = f"{error}\n{error.__cause__ or ''}".replace("\n\t", " ").splitlines()
        text = "\n".join(line for line in lines if line.strip() and not line.strip().startswith(_NOISE))
        near = ""
        if isinstance(error, MissingConfigException):
            near = did_you_mean(str(error.missing_cfg_file).rpartition("/")[2], error.options or ())
        elif key := re.search(r"Could not override '(.*)'", text):
            near = nearest_setting(key[1])
        raise UserError(text + ("." if near else "") + near) from error


def nearest_setting(name: str) -> str:
    """Return where the setting called ``name`` is to be found, or one that is spelt much like it, as the end of a message."""
    known = known_settings()
    if known.get(name):
        return f" {name} is a setting of {', '.join(known[name])}."
    same_kind = [setting for setting in known if "." in setting or "." not in name]
    return did_you_mean(name, same_kind, cutoff=0.7) or " `python -m repro --help` shows all settings."


@cache
def known_settings() -> dict[str, list[str]]:
    """Return every setting, dotted, with the choices that have it: ``{"noise.rate": ["noise=flip", ...]}``; none where all runs have it."""
    settings: dict[str, list[str]] = {}
    for section, kind in get_type_hints(Config).items():
        settings[section] = []
        if section in registry.GROUPS:
            for choice in registry.choices(section).values():
                for field in dataclasses.fields(choice.config):
                    settings.setdefault(f"{section}.{field.name}", []).append(f"{section}={choice.name}")
        elif dataclasses.is_dataclass(kind):
            settings |= {f"{section}.{field.name}": [] for field in dataclasses.fields(kind)}
    return settings
