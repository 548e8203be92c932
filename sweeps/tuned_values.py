"""The values that :mod:`sweeps.tuning` chose, one file for each scale."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from sweeps.scales import Scale
from sweeps.spec import Epoch, Set
from sweeps.yaml_files import FOLDER, Model, read

#: The name of a tuning, a dataset and a model.
Key = tuple[str, str, str]


class Point(Model):
    """One point of a grid that was tried: its settings, the score of its run, and the run."""

    values: Set
    score: float
    run_id: str


class Chosen(Model):
    """What was chosen for one tuning, dataset and model, from what grid, and by what: the metric, its epoch rule, the seed of the runs."""

    name: str
    dataset: str
    model: str
    chosen: Set
    metric: str
    epoch: Epoch
    seed: int
    grid: list[Point]

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.name, self.dataset, self.model

    @property
    def at_end(self) -> list[str]:
        """The chosen numbers, or lists of them, at an end of three or more, where none inside does as well: a better one may lie beyond."""
        found = []
        best = next((point.score for point in self.grid if point.values == self.chosen), math.nan)
        for key, value in self.chosen.items():
            tried = [point.values[key] for point in self.grid]
            ends = () if isinstance(value, str) else (min(tried), max(tried))
            inside = [point.score for point in self.grid if point.values[key] not in ends]
            if value in ends and inside and best not in inside:
                found.append(f"{key}={value}")
        return found


class TunedFile(Model):
    """The chosen values of one scale."""

    version: Literal[1] = Field(alias="schema")
    scale: str
    tuned: list[Chosen]


def tuned_folder() -> Path:
    """Return where chosen values lie: ``$REPRO_TUNED``, or ``tuned`` beside this file."""
    return Path(os.environ.get("REPRO_TUNED") or FOLDER / "tuned")


def read_tuned(scale: Scale, folder: Path | None = None) -> dict[Key, Chosen]:
    """Return the chosen values of ``scale``, kept in ``folder``, or in that of :func:`tuned_folder`.

    Raises:
        SpecError: the file has a mistake.
    """
    path = (folder or tuned_folder()) / f"{scale.name}.yaml"
    return {chosen.key: chosen for chosen in read(TunedFile, path).tuned} if path.exists() else {}
