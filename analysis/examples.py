"""Wrong annotations that learned labels put right, image by image (Figure 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.collect import Collected
from analysis.images import TrainingSet, TrainingSets, has_noise, name_of
from analysis.panels import RULE, Bar, Tile, Tiles, cells_of, csv_row, drawn, marked
from analysis.panels_top import Learned, message_without_tiles, read_learned
from analysis.stats import summarize
from sweeps.spec import FigureSpec, Panel, Sample

#: Where the spec does not say which images.
DEFAULT = Sample(8, 0)
SERIES = ("first epoch", "last epoch")


@dataclass(frozen=True)
class Corrected:
    """The images that a run's labels put right.

    Attributes:
        rows: of the corrected images (M,), among the run's training images.
        annotated: classes (N,) that the images were annotated with.
        true: their true classes (N,).
        wrong: how many of the N are annotated wrongly.
    """

    rows: npt.NDArray[np.int64]
    annotated: npt.NDArray[np.int64]
    true: npt.NDArray[np.int64]
    wrong: int


def corrected(learned: Learned, training_set: TrainingSet) -> Corrected:
    """Return the images that are annotated wrongly and whose label at the last visit has its largest number, alone, at the true class."""
    annotated = learned.annotated()
    true = training_set.labels[learned.labels.indices]
    final = learned.final()
    own = np.take_along_axis(final, true[:, None], axis=1)
    # Of classes that are equally probable none is the label's choice.
    right = (final >= own).sum(axis=1) == 1
    wrong = annotated != true
    return Corrected(np.flatnonzero(wrong & right), annotated, true, int(wrong.sum()))


def examples(spec: FigureSpec, panel: Panel, column: str, cells: Sequence[Collected], sets: TrainingSets) -> Tiles:
    """Return the panel: corrected images of the first repeat that is done and did not diverge, a row of the figure after the other.

    Beside each image stand the probabilities of its annotated and of its true class at its first and its last recorded visit. The first
    one comes after the first update, unless the run has ``trajectory.when=before``.

    Raises:
        UserError: recorded labels are damaged, or the dataset is another than the run's.
    """
    here = [cell for cell in cells_of(panel, column, cells) if cell.skip is None]
    tiles: list[Tile] = []
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    headings: list[str] = []
    run_ids: list[str] = []
    chosen: set[int] = set()
    when: set[str] = set()
    message = message_without_tiles(here)
    for cell in here:
        learned = read_learned(cell, sets)
        headings.append(marked(cell.row, n=len(learned), expected=len(cell.repeats), diverged=sum(one.diverged for one in learned)))
        first = next((one for one in learned if not one.diverged), None)
        if first is None:
            message = "every done run diverged" if learned else message
            continue
        where = f"{cell.label}, {first.repeat.label} (`{first.repeat.run.run_id}`)"
        if first.training_set is None:
            message = "the dataset is not on this machine, so the true classes are not known"
            notes.append(f"{panel.label}: {where}: {message}.")
            continue
        if not has_noise(first.repeat.run):
            message = "the run has no label noise, so no label is wrong"
            notes.append(f"{panel.label}: {where}: {message}.")
            continue
        run_ids.append(first.repeat.run.run_id)
        found = corrected(first, first.training_set)
        positions, note = _choose(panel, first, found)
        notes.append(f"{panel.label}: {where}: {note}")
        message = "no wrong label was corrected"
        chosen.update(positions)
        when.add(first.labels.when)
        title = cell.row if len(here) > 1 else ""
        for tile, lines in _tiles(spec, panel, cell, first, first.training_set, found, positions, title):
            tiles.append(tile)
            rows += lines
    if tiles:
        visit = " or ".join(sorted(when))
        notes.append(f"First and last epoch: the label {visit} the update at the image's visit in that epoch; one run, so no spread.")
    return Tiles(
        panel=panel,
        column=column,
        heading=": ".join(filter(None, (column, panel.label, ", ".join(headings)))),
        tiles=tuple(tiles),
        series=SERIES,
        axis="Probability",
        limit=1.0,
        message=message,
        rows=tuple(rows),
        notes=tuple(notes),
        run_ids=tuple(run_ids),
        chosen=tuple(sorted(chosen)),
    )


def _choose(panel: Panel, learned: Learned, found: Corrected) -> tuple[tuple[int, ...], str]:
    """Return the positions that are shown, and out of how many, in words."""
    candidates = learned.labels.indices[found.rows].tolist()
    count = f"{len(candidates)} of its {found.wrong} wrongly annotated images were corrected, out of {len(found.true)} training images"
    wanted = DEFAULT if panel.instances is None else panel.instances
    if isinstance(wanted, Sample):
        positions = drawn(candidates, wanted)
        return positions, f"{count}; {len(positions)} of them drawn with seed {wanted.seed}: {RULE}."
    positions = tuple(position for position in wanted if position in set(candidates))
    others = ", ".join(str(position) for position in wanted if position not in positions)
    return positions, f"{count}; shown as the figure lists them{f', but not {others}, no corrected images' if others else ''}."


def _tiles(
    spec: FigureSpec,
    panel: Panel,
    cell: Collected,
    learned: Learned,
    training_set: TrainingSet,
    found: Corrected,
    positions: Sequence[int],
    title: str,
) -> list[tuple[Tile, list[dict[str, Any]]]]:
    rows = learned.labels.rows_of(np.asarray(positions, dtype=np.int64))
    epochs = (1, learned.labels.epochs)
    # (visits, M, K)
    visits = [learned.labels.at(epoch - 1)[rows] for epoch in epochs]
    made = []
    for index, position in enumerate(positions):
        annotated, true = int(found.annotated[rows[index]]), int(found.true[rows[index]])
        bars, lines = [], []
        for number, kind in ((annotated, "annotated"), (true, "true")):
            name = name_of(training_set, number)
            values = tuple(summarize([float(visit[index, number])], expected=1) for visit in visits)
            bars.append(Bar(f"{name}\n({kind})", values))
            lines += [
                csv_row(spec, panel, cell, value, metric="label_probability", instance=position, epoch=epoch, repeat=learned.repeat.label)
                | {"class": number, "class_name": name, "annotated": annotated, "true": true}
                for epoch, value in zip(epochs, values, strict=True)
            ]
        made.append((Tile(position, training_set.image(position), title, tuple(bars)), lines))
    return made
