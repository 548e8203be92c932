"""The values that tuning has chosen: one YAML file for each scale, ``sweeps/tuned/<scale title>.yaml``.

::

    schema: 1
    scale: paper
    tuned:
      - name: instance_labels             # the tuning; with the dataset and the model of the runs that use it
        dataset: cifar100
        model: resnet18
        chosen: {method.learning_rate: 25.0}
        metric: val/accuracy              # what was compared, and where in the runs it was read
        epoch: last
        seed: 0
        grid:                             # every point that was tried, in the order of the grid
          - {values: {method.learning_rate: 5.0}, score: 0.61, run_id: instance_labels-cifar100-0123456789ab}

A missing file means that nothing has been tuned. ``python -m sweeps tune`` writes it (:mod:`sweeps.tuning`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from sweeps.epochs import read_epoch, read_metric
from sweeps.nodes import Entry, Place, SpecError, Value, read_yaml
from sweeps.scale import Scale
from sweeps.settings import Setting, in_order, read_settings

SCHEMA = 1

#: The name of a tuning, a dataset and a model.
Key = tuple[str, str, str]

_FOLDER = Path(__file__).resolve().with_suffix("")
_COMMENT = """\
# Written by `python -m sweeps tune`: settings chosen by the score of one run for each point of a grid, on validation images alone.
# No number of the test set takes part. Calling it again chooses anew; a spec without an entry here uses what it says under `otherwise`.
"""


@dataclass(frozen=True)
class GridPoint:
    """One point of a grid that was tried: its settings, the score of its run, and the run."""

    values: tuple[Setting, ...]
    score: float
    run_id: str


@dataclass(frozen=True)
class Chosen:
    """What was chosen for one tuning, dataset and model, and from what.

    Attributes:
        values: the chosen settings.
        metric: what was compared.
        epoch: the rule it was read by.
        seed: of the runs.
    """

    name: str
    dataset: str
    model: str
    values: tuple[Setting, ...]
    metric: str
    epoch: str
    seed: int
    grid: tuple[GridPoint, ...]
    place: Place

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.name, self.dataset, self.model


@dataclass(frozen=True)
class Tuned:
    """The chosen values of one scale, by tuning, dataset and model."""

    path: Path
    chosen: dict[Key, Chosen] = field(default_factory=dict)

    def also(self, more: Iterable[Chosen]) -> Tuned:
        """Return these values with ``more`` in the place of those of the same tuning, dataset and model."""
        return Tuned(self.path, {**self.chosen, **{item.key: item for item in more}})


def tuned_folder() -> Path:
    """Return where the files lie: ``$REPRO_TUNED``, or ``tuned`` beside this file."""
    return Path(os.environ.get("REPRO_TUNED") or _FOLDER)


def read_tuned(scale: Scale, folder: Path | None = None) -> Tuned:
    """Read the chosen values of ``scale``; ``folder`` is that of :func:`tuned_folder` unless another is given.

    Raises:
        SpecError: the file is damaged, or is another scale's; the message names the file and the line.
    """
    path = (tuned_folder() if folder is None else folder) / f"{scale.title}.yaml"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return Tuned(path)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}.") from error
    parts = read_yaml(path, content).mapping(allowed=("schema", "scale", "tuned"), required=("schema", "scale", "tuned"))
    parts["schema"].integer(at_least=SCHEMA, at_most=SCHEMA)
    if parts["scale"].text() != scale.title:
        raise parts["scale"].wrong(f"'{scale.title}', the scale that the file is called after")
    found: dict[Key, Chosen] = {}
    for item in parts["tuned"].items():
        chosen = _chosen(item)
        if chosen.key in found:
            raise item.place.error(f"{', '.join(chosen.key)} stands twice, first in line {found[chosen.key].place.line}. Keep one.")
        found[chosen.key] = chosen
    return Tuned(path, found)


def _chosen(entry: Entry) -> Chosen:
    keys = ("name", "dataset", "model", "chosen", "metric", "epoch", "seed", "grid")
    parts = entry.mapping(allowed=keys, required=keys)
    values, grid = read_settings(parts["chosen"]), tuple(_point(item) for item in parts["grid"].items())
    if in_order(values) not in [in_order(point.values) for point in grid]:
        raise parts["chosen"].place.error(f"{parts['chosen'].name} is no point of the grid below it. Tune it again, or take the entry out.")
    return Chosen(
        name=parts["name"].text(),
        dataset=parts["dataset"].text(),
        model=parts["model"].text(),
        values=values,
        metric=read_metric(parts["metric"]),
        epoch=str(read_epoch(parts["epoch"])),
        seed=parts["seed"].integer(at_least=0, at_most=2**63 - 1),
        grid=grid,
        place=entry.place,
    )


def _point(entry: Entry) -> GridPoint:
    parts = entry.mapping(allowed=("values", "score", "run_id"), required=("values", "score", "run_id"))
    score = parts["score"].scalar()
    if isinstance(score, bool) or not isinstance(score, int | float):
        raise parts["score"].wrong("a number")
    return GridPoint(read_settings(parts["values"]), float(score), parts["run_id"].text())


def tuned_text(scale: Scale, tuned: Tuned) -> str:
    """Return the content of the file: the same chosen values give the same bytes."""
    document = {
        "schema": SCHEMA,
        "scale": scale.title,
        "tuned": [
            {
                "name": item.name,
                "dataset": item.dataset,
                "model": item.model,
                "chosen": _plain(item.values),
                "metric": item.metric,
                "epoch": item.epoch,
                "seed": item.seed,
                "grid": [{"values": _plain(point.values), "score": point.score, "run_id": point.run_id} for point in item.grid],
            }
            for _, item in sorted(tuned.chosen.items())
        ],
    }
    return _COMMENT + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=130, allow_unicode=True)


def _plain(settings: Iterable[Setting]) -> dict[str, Any]:
    def listed(value: Value) -> Any:
        return list(value) if isinstance(value, tuple) else value

    return {setting.key: listed(setting.value) for setting in settings}
