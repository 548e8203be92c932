"""From what a user types to a checked :class:`repro.config.schema.Config`, through Hydra."""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, cast, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.config import registry
from repro.config.assemble import PRESETS, REGISTERED
from repro.config.fields import misfit
from repro.config.nearest import nearest, nearest_of_some
from repro.config.overrides import Given, loader, read
from repro.config.schema import Config, check
from repro.errors import UserError, did_you_mean, one_of, shown


@cache
def register_with_hydra() -> None:
    """Tell Hydra the schema and every registered choice. Idempotent."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    for group in REGISTERED:
        for choice in registry.choices(group).values():
            node = OmegaConf.structured(choice.config(name=choice.name))
            overrides = [{f"override /{other}": name} for other, name in choice.overrides.items()]
            content: dict[str, Any] = {**choice.values, group: node}
            if overrides:
                content["defaults"] = [*overrides, "_self_"]
            store.store(group=group, name=choice.name, package="_global_", node=content)


def compose(overrides: Sequence[str]) -> Config:
    """Compose and check the settings of one run from ``key=value`` strings, as ``python -m repro`` does.

    Raises:
        UserError: a misspelt key, an unknown choice, a value of the wrong type or out of range, a missing field, two fields
            that contradict each other; the message names the field, what is allowed, and the nearest name.
    """
    return to_config(compose_tree(overrides))


def compose_tree(overrides: Sequence[str]) -> DictConfig:
    """Compose the settings of one run, of which some may be missing still: what ``--cfg job`` prints.

    Hydra composes the choices (``method=...``); then each value is put into its field, as Hydra would. Nothing is ever added to the tree:
    what it has no field for is a mistake, however it is written.

    Raises:
        UserError: as :func:`compose`, but for missing fields, limits and contradictions.
    """
    given = check_names(overrides)
    register_with_hydra()
    known = _known_keys()
    for item in given:
        _check_no_section(item, known)
        if _is_group(item.key):
            _check_choice(item)
        elif item.key not in known:
            raise UserError(_unknown(item))
    composed, here = _compose_choices(tuple(sorted(f"{item.key}={item.value}" for item in given if _is_group(item.key))))
    tree = copy.deepcopy(composed)
    values = [item for item in given if not _is_group(item.key)]
    for item in values:
        _put(tree, item, here)
    for item in values:
        # Only when all values are in their place, since it may refer to any of them.
        if isinstance(item.value, str | list) and "${" in item.text:
            _check_reference(tree, item, here[item.key])
    for item in given:
        if item.refusal is not None:
            raise UserError(f"{item.shown}: {item.refusal}")
    return tree


def check_names(overrides: Sequence[str]) -> list[Given]:
    """Read ``overrides``, and refuse what is wrong whichever method, dataset, model and noise are chosen.

    The files of these import PyTorch, which takes seconds; this imports none of them, unless for the nearest name in a message.

    Raises:
        UserError: no ``KEY=VALUE``, a key of a section or setting that no run has, an unknown preset.
    """
    given = read(overrides)
    for item in given:
        if item.key in PRESETS and not isinstance(item.value, dict):
            _check_choice(item)
        elif item.key.partition(".")[0] not in REGISTERED and item.key not in _fixed_keys():
            raise UserError(_unknown(item))
    return given


def to_config(composed: DictConfig) -> Config:
    """Turn the composed tree into a checked :class:`Config`; raises what :func:`compose` raises."""
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


def wrong_setting(text: str) -> str | None:
    """Return what is wrong with an override or the name of a setting, whatever the others are; ``None`` where nothing is."""
    register_with_hydra()
    only_name = "=" not in text
    try:
        (item,) = read([f"{text}=null" if only_name else text])
        if not _is_group(item.key) and item.key not in _known_keys():
            return _unknown(item)
        if _is_group(item.key) and not only_name:
            _check_choice(item)
    except UserError as error:
        return str(error)
    return None


@lru_cache(maxsize=256)
def _compose_choices(choices: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any]]:
    """Let Hydra compose ``choices``; return the tree, which is shared, so callers change a copy, and its fields with their types."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_module("repro.conf", version_base="1.3"):
            tree = hydra_compose("train", list(choices))
        return tree, _fields(tree)
    except (HydraException, OmegaConfBaseException) as error:
        unchosen = re.match(r"You must specify '(\w+)'", str(error))
        if not unchosen:
            raise UserError(_first_lines(error)) from error
        group = unchosen.group(1)
        choose = f"There is no default on purpose; add {group}=NAME. Allowed: {one_of(_options(group))}."
        raise UserError(f"no {group} is chosen. {choose}") from error


def _is_group(key: str) -> bool:
    return key in PRESETS or key in REGISTERED


def _check_choice(item: Given) -> None:
    options = _options(item.key)
    if not isinstance(item.value, str) or item.value not in options:
        if item.refusal is not None and item.value is None:
            raise UserError(f"{item.shown}: {item.refusal}")
        near = did_you_mean(item.value, options) if isinstance(item.value, str) else ""
        raise UserError(f"{item.shown}: there is no {item.key} of that name.{near} Allowed: {one_of(options)}.")


def _check_no_section(item: Given, known: frozenset[str]) -> None:
    """Refuse a section as a whole, and name what it has no field for: ``optim={epochs: 3, epoch: 4}``."""
    names = sorted(name.partition(".")[2] for name in known if name.startswith(f"{item.key}."))
    if not names or (_is_group(item.key) and not isinstance(item.value, dict)):
        return
    for name in item.value if isinstance(item.value, dict) else ():
        if name not in names:
            raise UserError(f"{item.shown}: {item.key} has no setting '{shown(str(name))}'.{nearest(f'{item.key}.{name}', known)}")
    example = next(iter(item.value), names[0]) if isinstance(item.value, dict) else names[0]
    raise UserError(
        f"{item.shown}: {item.key} holds several settings. Give each by itself, as {item.key}.{example}=VALUE. There are: {one_of(names)}."
    )


def _put(tree: DictConfig, item: Given, here: Mapping[str, Any]) -> None:
    section, _, field = item.key.partition(".")
    if item.key not in here:
        owners = [name for name, choice in registry.choices(section).items() if field in choice.config.__dataclass_fields__]
        has = f"{one_of(owners)} {'has' if len(owners) == 1 else 'have'} it"
        raise UserError(f"{item.shown}: {section}={tree[section].name} has no setting '{field}'; {section}={has}.")
    if field == "name" and _is_group(section):
        example = item.value if isinstance(item.value, str) and item.value in _options(section) else "NAME"
        raise UserError(f"{item.shown}: the name follows the choice and is not set alone. Write {section}={example}.")
    if item.refusal is not None and item.value is None:
        return
    problem = misfit(item.value, here[item.key], references=True)
    if problem and item.text.endswith("="):
        raise UserError(f"{item.shown}: there is no value after the =. Write {item.key}=VALUE.")
    if problem:
        raise UserError(f"{item.shown}: {problem}")
    try:
        OmegaConf.update(tree, item.key, item.value)
    except OmegaConfBaseException as error:
        raise UserError(f"{item.shown}: {_first_lines(error)}") from error


def _check_reference(tree: DictConfig, item: Given, kind: Any) -> None:
    """Check that a value such as ``${oc.env:HOME}`` refers to something that the field can hold."""
    try:
        value = OmegaConf.select(tree, item.key, throw_on_missing=True)
        value = OmegaConf.to_container(value, resolve=True, throw_on_missing=True) if OmegaConf.is_config(value) else value
    except (OmegaConfBaseException, RecursionError) as error:
        reason = "it refers to itself" if isinstance(error, RecursionError) else shown(_first_lines(error))
        raise UserError(
            f"{item.shown}: ${{...}} refers to another setting or, as ${{oc.env:NAME}}, to an environment variable, and this one cannot be "
            f"resolved ({reason}). Write the value itself."
        ) from error
    problem = misfit(value, kind)
    if problem:
        raise UserError(f"{item.shown}: refers to {shown(str(value))}: {problem}")


def nearest_setting(name: str) -> str:
    """Return ``" Did you mean '...'?"`` with the setting or choice that ``name`` may stand for, or an empty string."""
    return nearest(name, _known_keys())


def _unknown(item: Given) -> str:
    near = nearest_of_some(item.key, _fixed_keys()) or nearest(item.key, _known_keys())
    return (
        f"{item.shown}: there is no setting '{shown(item.key)}' for this choice of method, dataset, model and noise."
        f"{near} `python -m repro ... --cfg job` prints all that there are."
    )


@cache
def _options(group: str) -> tuple[str, ...]:
    return tuple(loader().get_group_options(group))


def _fields(tree: DictConfig) -> dict[str, Any]:
    """Return every setting of ``tree``, dotted, with its type."""
    found = dict(_plain_fields())
    for section in get_type_hints(Config).keys() - found.keys():
        kind = OmegaConf.get_type(tree, section)
        assert kind is not None
        found |= {f"{section}.{name}": hint for name, hint in get_type_hints(kind).items()}
    return found


@cache
def _known_keys() -> frozenset[str]:
    """Return every setting of every choice, dotted, and every section."""
    own = {
        f"{group}.{name}" for group in REGISTERED for choice in registry.choices(group).values() for name in get_type_hints(choice.config)
    }
    return _fixed_keys() | own


@cache
def _fixed_keys() -> frozenset[str]:
    """Return every section, and every setting of those whose settings are the same whatever is chosen, dotted."""
    sections = {name: kind for name, kind in get_type_hints(Config).items() if name not in _plain_fields()}
    own = {f"{name}.{field}" for name, kind in sections.items() if name not in REGISTERED for field in get_type_hints(kind)}
    return frozenset({*_plain_fields(), *sections, *own})


@cache
def _plain_fields() -> dict[str, Any]:
    return {name: hint for name, hint in get_type_hints(Config).items() if not dataclasses.is_dataclass(hint)}


def _first_lines(error: BaseException) -> str:
    """Return what Hydra and OmegaConf say, their inner cause included, without the lines about Python types."""
    text = str(error) if error.__cause__ is None else f"{error}\n{error.__cause__}"
    noise = ("object_type", "reference_type", "full_key")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith(noise)]
    return " ".join(dict.fromkeys(lines[:4]))
