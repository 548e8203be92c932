"""The classes that converged instance labels find likely beside the annotated one (Figure 2, right)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.collect import Collected, Repeat
from analysis.images import TrainingSet, TrainingSets, annotated_classes, name_of
from analysis.panels import RULE, Bar, Tile, Tiles, cells_of, csv_row, drawn, factor, marked
from analysis.stats import Summary, summarize
from analysis.trajectories import InstanceLabels, open_instance_labels
from repro.errors import UserError
from sweeps.spec import FigureSpec, Panel, Sample

#: So many classes a chart.
TOP = 5
#: Where the spec does not say which images.
DEFAULT = Sample(4, 0)


@dataclass(frozen=True)
class Learned:
    """The instance labels of one done run.

    Attributes:
        training_set: ``None`` where the dataset is not on this machine.
        diverged: whether it ended early, or its labels are not all finite; then its labels say nothing.
    """

    repeat: Repeat
    labels: InstanceLabels
    training_set: TrainingSet | None
    diverged: bool

    def annotated(self) -> npt.NDArray[np.int64]:
        """Return the annotated classes (N,); without the dataset, the most probable ones at the first visit, which may differ (B1)."""
        if self.training_set is None:
            first: npt.NDArray[np.int64] = np.argmax(self.labels.at(0), axis=1)
            return first
        return annotated_classes(self.repeat.run, self.training_set, self.labels.indices)

    def final(self) -> npt.NDArray[np.float64]:
        """Return the labels (N, K) at the last visits."""
        return self.labels.at(self.labels.epochs - 1)


def read_learned(cell: Collected, sets: TrainingSets) -> list[Learned]:
    """Return the instance labels of the cell's done runs that recorded any.

    Raises:
        UserError: recorded labels are damaged, or the dataset is another than the runs'.
    """
    found = []
    for repeat in cell.repeats:
        labels = open_instance_labels(repeat.run.folder) if repeat.run.done else None
        if labels is not None:
            loss = repeat.run.final.get("train/loss", {}).get("last", 0.0)
            ended_early = labels.epochs < labels.planned or not math.isfinite(loss)
            diverged = labels.epochs == 0 or ended_early or not bool(np.isfinite(labels.at(labels.epochs - 1)).all())
            found.append(Learned(repeat, labels, sets.of(repeat.run), diverged))
    return found


def top_classes(spec: FigureSpec, panel: Panel, column: str, cells: Sequence[Collected], sets: TrainingSets) -> Tiles:
    """Return the panel: for each chosen image the mean over the runs of its most probable classes but the annotated one.

    The spread is the standard deviation over the runs that trained on the image; one that diverged leaves the image without a chart.

    Raises:
        UserError: recorded labels are damaged, the dataset is another than the runs', or the runs of a cell have different ones.
    """
    here = [cell for cell in cells_of(panel, column, cells) if cell.skip is None]
    tiles: list[Tile] = []
    rows: list[dict[str, Any]] = []
    notes = [
        f"{panel.label}: the {TOP} most probable classes but the annotated one, at the last visit; mean over the runs that trained on the "
        "image, each chart with an axis of its own; above it the annotated class with its mean probability"
        + ("." if spec.spread == "none" else "; whiskers: ± spread.")
    ]
    headings: list[str] = []
    run_ids: list[str] = []
    chosen: set[int] = set()
    for cell in here:
        learned = read_learned(cell, sets)
        headings.append(marked(cell.row, n=len(learned), expected=len(cell.repeats), diverged=sum(one.diverged for one in learned)))
        if len({id(one.training_set) for one in learned}) > 1:
            raise UserError(
                f"{spec.path}: panel '{panel.label}': the runs of {cell.label} have different datasets. Draw them in rows of their own."
            )
        common = set.intersection(*(set(one.labels.indices.tolist()) for one in learned)) if learned else set()
        positions = _choose(panel, common)
        chosen.update(positions)
        run_ids += [one.repeat.run.run_id for one in learned]
        if learned:
            notes.append(f"Images of {cell.label}: {', '.join(map(str, positions))}, {_how(panel, len(common))}.")
        if learned and learned[0].training_set is None:
            notes.append(f"{cell.label}: the annotated class is taken to be the most probable one at the first visit.")
        several = cell.row + ", " if len(here) > 1 else ""
        for tile, lines in _tiles(spec, panel, cell, learned, positions):
            tiles.append(Tile(tile.position, tile.image, several + tile.title, tile.bars, tile.message) if several else tile)
            rows += lines
    return Tiles(
        panel=panel,
        column=column,
        heading=": ".join(filter(None, (column, panel.label, ", ".join(headings)))),
        tiles=tuple(tiles),
        series=("",),
        axis="Probability",
        limit=None,
        message=message_without_tiles(here),
        rows=tuple(rows),
        notes=tuple(notes),
        run_ids=tuple(run_ids),
        chosen=tuple(sorted(chosen)),
    )


def message_without_tiles(cells: Sequence[Collected]) -> str:
    """Return why a panel shows no image."""
    if not cells:
        return "left out"
    return "no done run has instance labels" if any(repeat.run.done for cell in cells for repeat in cell.repeats) else "no run is done"


def _choose(panel: Panel, common: set[int]) -> tuple[int, ...]:
    wanted = DEFAULT if panel.instances is None else panel.instances
    return drawn(common, wanted) if isinstance(wanted, Sample) else wanted


def _how(panel: Panel, candidates: int) -> str:
    wanted = DEFAULT if panel.instances is None else panel.instances
    if isinstance(wanted, Sample):
        return f"drawn with seed {wanted.seed} among the {candidates} that every done run trained on: {RULE}"
    return "as the figure lists them"


def _tiles(
    spec: FigureSpec, panel: Panel, cell: Collected, learned: Sequence[Learned], positions: Sequence[int]
) -> list[tuple[Tile, list[dict[str, Any]]]]:
    """Return for each position its tile and its lines of the CSV."""
    if not learned:
        return []
    asked = np.asarray(positions, dtype=np.int64)
    # Of a run's labels, (N, K) numbers, only the chosen rows are kept.
    rows = [one.labels.rows_of(asked) for one in learned]
    annotated = [one.annotated()[row] for one, row in zip(learned, rows, strict=True)]
    final = [None if one.diverged else one.final()[row] for one, row in zip(learned, rows, strict=True)]
    training_set = learned[0].training_set
    found = []
    for index, position in enumerate(positions):
        having = [run for run in range(len(learned)) if rows[run][index] >= 0]
        targets = sorted({int(annotated[run][index]) for run in having})
        summaries = _by_class([final[run] for run in having], index, learned[0].labels.num_classes, expected=len(cell.repeats))
        diverged = sum(final[run] is None for run in having)
        names = " / ".join(_with_mean(name_of(training_set, number), summaries.get(number), panel) for number in targets)
        title = marked(f"annotated: {names}" if names else "no run", n=len(having), expected=len(cell.repeats), diverged=diverged)
        order = sorted(
            (number for number in summaries if number not in targets), key=lambda number: (-(summaries[number].mean or 0.0), number)
        )
        top = order[:TOP]
        image = training_set.image(position) if training_set is not None and position < len(training_set.labels) else None
        message = "" if top else ("no done run trained on it" if not having else "diverged")
        tile = Tile(position, image, title, tuple(Bar(name_of(training_set, number), (summaries[number],)) for number in top), message)
        lines = [
            csv_row(spec, panel, cell, summaries[number], metric="label_probability", instance=position, epoch="last")
            | {"class": number, "class_name": name_of(training_set, number), "annotated": " ".join(map(str, targets))}
            for number in (*(number for number in targets if number in summaries), *top)
        ]
        found.append((tile, lines))
    return found


def _with_mean(name: str, summary: Summary | None, panel: Panel) -> str:
    return name if summary is None or summary.mean is None else f"{name}, {summary.mean * factor(panel):.3g}"


def _by_class(labels: Sequence[npt.NDArray[np.float64] | None], index: int, num_classes: int, *, expected: int) -> dict[int, Summary]:
    """Return by class what the runs say of image ``index``; nothing where there is none, or one diverged."""
    known = [one[index] for one in labels if one is not None]
    if not known or len(known) < len(labels):
        return {}
    return {number: summarize([float(one[number]) for one in known], expected=expected) for number in range(num_classes)}
