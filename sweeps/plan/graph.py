"""The graph of runs: which run reads which, and the id of each, which follows from the ids of those it reads."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from repro.config.compose import compose, register_with_hydra, to_config
from repro.config.identity import run_id, scientific_fields
from repro.config.schema import Config, InputsConfig, check
from repro.errors import UserError
from repro.runs.inputs import check_inputs
from sweeps.plan.plan import PlannedRun
from sweeps.spec.data import SpecError
from sweeps.spec.expansion import Cell, TuningUse, Variant, walk
from sweeps.spec.settings import override_value

#: What needs a run, for messages.
Owner = Cell | TuningUse

#: The settings that choose a preset or a registered choice.
_CHOICES = ("method", "dataset", "model", "noise", "split", "augment", "optim", "exec", "tracker")

_Same = tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]


class Graph:
    """Runs by id, inputs before their readers. A run is composed and identified once, however many others read it."""

    def __init__(self) -> None:
        self.runs: dict[str, PlannedRun] = {}
        self._configs: dict[tuple[str, ...], Config] = {}
        self._by_variant: dict[int, str] = {}
        self._by_settings: dict[_Same, str] = {}

    def compose(self, wanted: Iterable[tuple[Owner, Variant]]) -> None:
        """Compose the runs ``wanted`` and all that they read, without their inputs; the variants must outlive the graph.

        Raises:
            SpecError: as :func:`repro.config.compose.compose`, beginning with the file and line of the setting.
        """
        seen: set[int] = set()
        for owner, variant in wanted:
            for item in walk(variant, seen):
                if item.overrides not in self._configs:
                    self._configs[item.overrides] = _compose(owner, item)

    def config(self, variant: Variant) -> Config:
        """Return the configuration of a composed run, without its inputs."""
        return self._configs[variant.overrides]

    def fields(self, variant: Variant) -> dict[str, Any]:
        """Return every setting of the identity of a composed run, without its inputs."""
        return scientific_fields(self.config(variant))

    def add(self, owner: Owner, variant: Variant, *, spec: str, place: str) -> str:
        """Return the id of a composed run that ``owner`` needs, and note that ``spec`` needs it and all that it reads.

        Raises:
            UserError: its inputs are not those that its method reads.
        """
        name = self._add(owner, variant, spec, place)
        self._mark(name, spec)
        return name

    def _add(self, owner: Owner, variant: Variant, spec: str, place: str) -> str:
        if id(variant) in self._by_variant:
            return self._by_variant[id(variant)]
        read = {role: tuple(self._add(owner, item, spec, place) for item in items) for role, items in variant.inputs}
        same = (variant.overrides, tuple(read.items()))
        if same not in self._by_settings:
            what = f"{variant.name} (for {place})" if variant.name else place
            self._by_settings[same] = self._new(owner, variant, read, f"{spec}: {what}")
        self._by_variant[id(variant)] = self._by_settings[same]
        return self._by_settings[same]

    def _new(self, owner: Owner, variant: Variant, read: Mapping[str, tuple[str, ...]], place: str) -> str:
        config = self.config(variant)
        try:
            if read:
                inputs = InputsConfig(labels=list(read.get("labels", ())), teacher=next(iter(read.get("teacher", ())), None))
                config = dataclasses.replace(config, inputs=inputs)
                check(config)
            check_inputs(config)
        except UserError as error:
            raise _explain(error, owner, variant) from error
        name = run_id(config)
        if name not in self.runs:
            overrides = [f"inputs.{role}={override_value(ids if role == 'labels' else ids[0])}" for role, ids in read.items()]
            inputs_of = tuple(item for ids in read.values() for item in ids)
            self.runs[name] = PlannedRun(
                run_id=name,
                overrides=(*variant.overrides, *overrides),
                fields=scientific_fields(config),
                state="missing",
                inputs=inputs_of,
                specs=(),
                place=place,
                stage=1 + max((self.runs[item].stage for item in inputs_of), default=-1),
            )
        return name

    def _mark(self, name: str, spec: str) -> None:
        # Whatever is marked has had its inputs marked.
        run = self.runs[name]
        if spec not in run.specs:
            self.runs[name] = dataclasses.replace(run, specs=(*run.specs, spec))
            for item in run.inputs:
                self._mark(item, spec)


def _compose(owner: Owner, variant: Variant) -> Config:
    choices = tuple(sorted(setting.override for setting in variant.settings if setting.key in _CHOICES))
    try:
        try:
            tree = copy.deepcopy(_composed(choices))
            for setting in variant.settings:
                if setting.key not in _CHOICES:
                    OmegaConf.update(tree, setting.key, list(setting.value) if isinstance(setting.value, tuple) else setting.value)
            return to_config(tree)
        except (HydraException, OmegaConfBaseException):
            return compose(variant.overrides)
    except UserError as error:
        raise _explain(error, owner, variant) from error


@cache
def _composed(choices: tuple[str, ...]) -> DictConfig:
    register_with_hydra()
    with initialize_config_module("repro.conf", version_base="1.3"):
        return hydra_compose("train", list(choices))


def _explain(error: UserError, owner: Owner, variant: Variant) -> SpecError:
    """Return ``error`` about the settings of a run that ``owner`` needs, with the file and line of the setting that it begins with."""
    text = str(error)
    place = next((setting.place for setting in variant.settings if text.startswith(f"{setting.key}=")), owner.place)
    return place.error(f"in {owner.title}{f', {variant.name}' if variant.name else ''}: {text}")
