"""How large every spec is run: the paper's own scale, and others that retarget it. docs/specs.md describes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, TypeVar

from pydantic import Field, model_validator

from sweeps.spec import Axes, Grid, Set, known_specs
from sweeps.yaml_files import Model, find, known, look_up, read

_Item = TypeVar("_Item")

PAPER = "paper"


class Rule(Model):
    """One step of a scale: where a run has the settings ``where``, drop those called ``drop`` and put ``settings`` on top."""

    where: Set = {}
    drop: list[str] = []
    settings: Set = Field(default={}, alias="set")


class Scale(Model):
    """How every spec is retargeted.

    Attributes:
        name: part of the names of plans and of files of tuned values.
        disclaimer: what every page of this scale says of itself; empty at the paper's own.
        numbered_epochs: the epoch rule that stands for every ``epoch N``; ``None``: as the spec says.
        grid_points: how many values an axis of a grid has at most; ``None``: all.
        repeats: what a spec is repeated over in place of its own repeats, by its name.
        tuning: other grids for the tunings of shared files, by the name of the file and that of the tuning.
    """

    name: str = Field(alias="title", pattern=r"^[A-Za-z0-9][\w-]*$")
    disclaimer: str = ""
    rules: list[Rule] = []
    numbered_epochs: Literal["last", "best_val", "best_test"] | None = None
    grid_points: int | None = Field(default=None, ge=1)
    repeats: dict[str, Axes] = {}
    tuning: dict[str, dict[str, Grid]] = {}

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.name == PAPER and len(self.model_fields_set) > 1:
            raise ValueError(f"the scale {PAPER} is the paper's own and changes nothing. Give this one another title.")
        if self.name != PAPER and not self.disclaimer:
            raise ValueError("disclaimer is missing: one sentence that says on every page that the numbers are not the paper's.")
        for spec in self.repeats:
            look_up(spec, known_specs(), "repeats: there is no spec")
        return self

    def epoch(self, rule: str) -> str:
        """Return where a value is read at this scale that the spec reads at ``rule``."""
        return self.numbered_epochs if self.numbered_epochs and rule.startswith("epoch ") else rule

    def subsampled(self, values: Sequence[_Item]) -> list[_Item]:
        """Return at most :attr:`grid_points` of ``values``, evenly spaced, with the first and the last."""
        wanted = min(self.grid_points or len(values), len(values))
        return [values[index * (len(values) - 1) // max(1, wanted - 1)] for index in range(wanted)]


def known_scales() -> dict[str, Path]:
    """Return the scales that come with the suite, by name."""
    return known("scale")


def load_scale(name: str) -> Scale:
    """Read the scale of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake.
    """
    return read(Scale, find(name, known_scales(), "scale"))
