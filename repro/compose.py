"""From what a user types to a checked :class:`repro.config.Config`, through Hydra."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, cast

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro import registry
from repro.config import AugmentConfig, Config, ExecConfig, OptimConfig, SplitConfig, TrackerConfig, check
from repro.errors import UserError, did_you_mean, one_of

#: The groups whose choices are the presets under ``repro/conf``, and what they hold.
_BASES: dict[str, type[Any]] = {
    "split": SplitConfig,
    "augment": AugmentConfig,
    "optim": OptimConfig,
    "exec": ExecConfig,
    "tracker": TrackerConfig,
}


@cache
def register_with_hydra() -> None:
    """Tell Hydra the schema and every registered choice. Idempotent."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group in ("method", "dataset", "model", "noise"):
        for choice in registry.choices(group).values():
            node = OmegaConf.structured(choice.config(name=choice.name))
            overrides = [{f"override /{other}": name} for other, name in choice.overrides.items()]
            content: dict[str, Any] = {**choice.values, group: node}
            if overrides:
                content["defaults"] = [*overrides, "_self_"]
            store.store(group=group, name=choice.name, package="_global_", node=content)


def compose(overrides: Sequence[str]) -> Config:
    """Compose and check the settings of one run from ``key=value`` strings, as ``python -m repro`` would.

    Raises:
        UserError: a misspelt key, an unknown choice, a value of the wrong type or out of range, a missing field, two fields
            that contradict each other; the message names the field, what is allowed, and the nearest name.
    """
    register_with_hydra()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("repro.conf", version_base="1.3"):
            composed = hydra_compose("train", list(overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_explain(error, overrides)) from error
    return to_config(composed)


def to_config(composed: DictConfig) -> Config:
    """Turn Hydra's composed tree into a checked :class:`Config`.

    Raises:
        UserError: as :func:`compose`.
    """
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        wanted = " ".join(f"{name}=..." for name in missing)
        raise UserError(f"not set: {', '.join(missing)}. There is no default on purpose; add {wanted}")
    try:
        config = cast(Config, OmegaConf.to_object(composed))
    except OmegaConfBaseException as error:
        raise UserError(_first_lines(error)) from error
    check(config)
    return config


def _explain(error: Exception, overrides: Sequence[str]) -> str:
    """Name the wrong key or choice and its nearest right name, where Hydra only says that something is wrong."""
    for text in overrides:
        key, value = _key_and_value(text)
        if key is None:
            continue
        options = _options(key)
        if options and isinstance(value, str) and value not in options:
            return f"{key}={value}: there is no {key} of that name.{did_you_mean(value, options)} Allowed: {one_of(options)}."
        if not options and key not in _known_keys():
            near = did_you_mean(key, _known_keys()) or did_you_mean(key.rsplit(".", 1)[-1], _leaf_names())
            return (
                f"{text}: there is no setting '{key}' for this choice of method, dataset, model and noise.{near} "
                "`python -m repro ... --cfg job` prints all that there are."
            )
    unchosen = re.match(r"You must specify '(\w+)'", str(error))
    if unchosen:
        group = unchosen.group(1)
        return f"no {group} is chosen. There is no default on purpose; add {group}=NAME. Allowed: {one_of(_options(group))}."
    return _first_lines(error)


def _key_and_value(text: str) -> tuple[str | None, Any]:
    try:
        parsed = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"{text}: not understood. Write KEY=VALUE, such as optim.epochs=5. ({_first_lines(error)})") from error
    if parsed.is_delete() or parsed.is_add() or parsed.is_force_add():
        return None, None
    return parsed.key_or_group, parsed.value()


def _options(group: str) -> list[str]:
    """Return the names that a Hydra group allows, or an empty list when ``group`` is none of ours."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl  # the only place Hydra lists the options of a group
    from hydra._internal.utils import create_config_search_path

    if "." in group or group in ("seed", "schema"):
        return []
    Plugins.instance()
    loader = ConfigLoaderImpl(create_config_search_path("pkg://repro.conf"))
    return list(loader.get_group_options(group))


@cache
def _known_keys() -> frozenset[str]:
    """Return every setting of every choice, dotted."""
    keys: set[str] = set()
    tree = OmegaConf.structured(Config)
    for group in tree:
        keys.add(str(group))
    for group, base in _BASES.items():
        keys.update(f"{group}.{name}" for name in OmegaConf.structured(base))
    for section in ("meta", "trajectory", "inputs", "paths"):
        keys.update(f"{section}.{name}" for name in tree[section])
    for group in ("method", "dataset", "model", "noise"):
        for choice in registry.choices(group).values():
            keys.update(f"{group}.{name}" for name in OmegaConf.structured(choice.config))
    return frozenset(keys)


def _leaf_names() -> Iterable[str]:
    return {key.rsplit(".", 1)[-1] for key in _known_keys()}


def _first_lines(error: BaseException) -> str:
    """Return what Hydra and OmegaConf say, their inner cause included, without the lines about Python types."""
    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    noise = ("object_type", "reference_type", "full_key")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)]
    return " ".join(dict.fromkeys(lines[:4]))
