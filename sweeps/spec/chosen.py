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

A missing file means that nothing has been tuned. ``python -m sweeps tune`` writes it (:mod:`sweeps.local.tuning`).
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import Field, model_validator

from sweeps.spec.data import SpecError, found
from sweeps.spec.loader import load
from sweeps.spec.models import AnyText, EpochRule, Items, Metric, Model, Number, integer, validate
from sweeps.spec.scale import Scale
from sweeps.spec.settings import Setting, SettingList, in_order

SCHEMA = 1

#: The name of a tuning, a dataset and a model.
Key = tuple[str, str, str]

_FOLDER = Path(__file__).resolve().parents[1] / "tuned"
_COMMENT = """\
# Written by `python -m sweeps tune`: settings chosen by the score of one run for each point of a grid, on validation images alone.
# No number of the test set takes part. Calling it again keeps what was chosen from the same runs (`--again` chooses anew);
# a spec without an entry here uses what it says under `otherwise`.
"""


class GridPoint(Model):
    """One point of a grid that was tried: its settings, the score of its run, and the run."""

    values: SettingList
    score: Number
    run_id: AnyText


class Chosen(Model):
    """What was chosen for one tuning, dataset and model, from what grid, and by what: the metric, its epoch rule, the seed of the runs."""

    name: AnyText
    dataset: AnyText
    model: AnyText
    values: SettingList = Field(alias="chosen")
    metric: Metric
    epoch: EpochRule
    seed: Annotated[int, integer(0, 2**63 - 1)]
    grid: Items[GridPoint]

    @model_validator(mode="after")
    def _is_a_point(self) -> Self:
        if self.node is not None and in_order(self.values) not in [in_order(point.values) for point in self.grid]:
            name = self.node.below("chosen")
            raise self.at("chosen").error(f"{name} is no point of the grid below it. Tune it again, or take the entry out.")
        return self

    @property
    def key(self) -> Key:
        """What it is looked up by."""
        return self.name, self.dataset, self.model

    @property
    def at_end(self) -> tuple[str, ...]:
        """The chosen numbers at an end of three or more, where none inside does as well: a better one may lie beyond."""
        best: defaultdict[str, dict[float, float]] = defaultdict(dict)
        for point in self.grid:
            # A point that diverged was tried, and no other is worse.
            score = point.score if math.isfinite(point.score) else -math.inf
            for setting in point.values:
                if isinstance(setting.value, int | float):
                    scores = best[setting.key]
                    scores[setting.value] = max(score, scores.get(setting.value, score))
        ends = {key: (min(scores), max(scores)) for key, scores in best.items() if len(scores) > 2}
        inside = {key: max(score for value, score in best[key].items() if value not in ends[key]) for key in ends}
        return tuple(
            setting.override
            for setting in self.values
            if setting.value in ends.get(setting.key, ()) and inside[setting.key] < max(best[setting.key].values())
        )


class _File(Model):
    version: Annotated[int, integer(SCHEMA, SCHEMA)] = Field(alias="schema")
    scale: AnyText
    tuned: Items[Chosen]


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
    file = validate(_File, load(path, content))
    if file.scale != scale.title:
        wanted = f"'{scale.title}', the scale that the file is called after"
        raise file.at("scale").error(f"scale must be {wanted}, found {found(file.scale)}.")
    chosen: dict[Key, Chosen] = {}
    for item in file.tuned:
        if item.key in chosen:
            raise item.place.error(f"{', '.join(item.key)} is given twice, first in line {chosen[item.key].place.line}. Keep one.")
        chosen[item.key] = item
    return Tuned(path, chosen)


def tuned_text(scale: Scale, tuned: Tuned) -> str:
    """Return the content of the file: the same chosen values give the same bytes."""
    items = []
    for _, item in sorted(tuned.chosen.items()):
        grid = [{"values": _plain(point.values), "score": point.score, "run_id": point.run_id} for point in item.grid]
        what = {"name": item.name, "dataset": item.dataset, "model": item.model, "chosen": _plain(item.values)}
        items.append(what | {"metric": item.metric, "epoch": str(item.epoch), "seed": item.seed, "grid": grid})
    document = {"schema": SCHEMA, "scale": scale.title, "tuned": items}
    return _COMMENT + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=130, allow_unicode=True)


def _plain(settings: Iterable[Setting]) -> dict[str, Any]:
    return {setting.key: setting.value for setting in settings}
