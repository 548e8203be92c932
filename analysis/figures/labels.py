"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from analysis.figures.curves import curve_points
from analysis.figures.points import Point, cells_of, chosen, kept_of, make_point, marked
from analysis.reading.images import Classes, TrainingSet, annotated_classes, is_right, training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.stats import factor, summarize
from repro.errors import UserError
from repro.labels.trajectory import Trajectory
from sweeps.spec import Panel, Sample

#: So many classes a chart of ``top_classes``.
TOP = 5


@dataclass
class ImagePanel:
    """What a panel of images shows in one column of the figure; evidence keeps it as JSON.

    Attributes:
        panel: the panel as the spec has it.
        run_ids: whose labels are drawn.
        title: what stands above it: the rows, and what their runs lack.
        tiles: an image each: ``row``, ``instance``, ``image`` (PNG in base64), and ``title``, what stands above the chart of its label.
        points: the bars of the charts.
        notes: how to read it, for the page.
        reason: why there are no tiles.
    """

    panel: dict[str, Any]
    column: str
    run_ids: list[str] = field(default_factory=list)
    title: str = ""
    tiles: list[dict[str, Any]] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    reason: str = "no run is done"


@dataclass(frozen=True)
class Learned:
    """The instance labels of a done run.

    Attributes:
        annotated, true: classes (N,).
        last: labels (N, K) at the last visit; NaN where the run diverged.
    """

    run_id: str
    labels: Trajectory
    training_set: TrainingSet
    annotated: Classes
    true: Classes
    last: npt.NDArray[np.float32]

    def row(self, position: int) -> int:
        """Return which of its images has that position in the published training set."""
        return int(np.flatnonzero(self.labels.indices == position)[0])


class Bar(NamedTuple):
    """A bar of a chart: the class, the epoch, what it is called, and the value of each run."""

    number: int
    epoch: int | str
    label: str
    values: npt.NDArray[np.floating[Any]]


def image_panels(results: Results) -> list[ImagePanel]:
    """Return what the panels of images show, column by column, from recorded labels or from evidence."""
    kept = [ImagePanel(**panel) for run_id in results.runs.index for panel in kept_of(results, run_id).get("panels", [])]
    known = {(json.dumps(panel.panel, sort_keys=True), panel.column): panel for panel in kept}
    made = [
        _image_panel(results, panel, column.label)
        for column in results.spec.column_lines
        for panel in results.spec.panels
        if panel.type != "curve"
    ]
    return [known.get((json.dumps(panel.panel, sort_keys=True), panel.column), panel) for panel in made]


def drawn_of(results: Results) -> dict[str, dict[str, Any]]:
    """Return by run, as JSON, what evidence keeps for this figure: names of classes, and the panels, each with the first of its runs.

    A run whose labels or dataset are not here has nothing.
    """
    drawn: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"class_names": {}, "panels": []})
    for panel in image_panels(results):
        if panel.run_ids:
            drawn[panel.run_ids[0]]["panels"].append(asdict(panel))
    done = {cell.place: results.done(cell) for cell in results.cells}
    for point in curve_points(results):
        if point["class"] is not None:
            for run_id in done[point["row"], point["column"]]:
                drawn[run_id]["class_names"][str(point["class"])] = point["class_name"]
    return dict(drawn)


def _image_panel(results: Results, panel: Panel, column: str) -> ImagePanel:
    made, rows = ImagePanel(panel.model_dump(mode="json"), column), []
    try:
        for cell in (cell for cell in cells_of(results, panel) if cell.column == column):
            learned = [one for run_id in results.done(cell) if (one := _read(results, run_id))]
            diverged = sum(not np.isfinite(one.last).all() for one in learned)
            rows.append(marked(cell.row, n=len(learned), expected=len(cell.run_ids), diverged=diverged))
            made.run_ids += [one.run_id for one in learned]
            if learned and not diverged:
                (_add_top_classes if panel.type == "top_classes" else _add_examples)(results, panel, cell, learned, made)
            elif results.done(cell):
                made.reason = "a run diverged" if diverged else "no done run has instance labels"
    except UserError as error:
        return ImagePanel(made.panel, column, reason=" ".join(str(error).split()))
    made.title = ": ".join(filter(None, (column, panel.label, ", ".join(rows)))) + "; bars: probability"
    return made


def _read(results: Results, run_id: str) -> Learned | None:
    """Return the instance labels of a done run; ``None`` where it recorded none.

    Raises:
        UserError: recorded labels are corrupted, or the dataset is not here or another than the run's.
    """
    labels = results.source.labels(run_id)
    if labels is None or labels.kind != "instance" or not labels.epochs:
        return None
    record = results.source.record(run_id)
    training_set = training_set_of(record)
    last, loss = labels.block(labels.epochs - 1), results.runs.at[run_id, "train/loss@last"] if "train/loss@last" in results.runs else 0.0
    if labels.epochs < labels.planned or not math.isfinite(loss or 0.0):
        last = np.full_like(last, math.nan)
    annotated = annotated_classes(record, training_set, labels.indices)
    return Learned(run_id, labels, training_set, annotated, training_set.labels[labels.indices], last)


def _add_top_classes(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned], made: ImagePanel) -> None:
    """Add of each chosen image the most probable classes but the annotated one, as means over the runs."""
    candidates = set.intersection(*(set(one.labels.indices.tolist()) for one in learned))
    names = learned[0].training_set.class_names
    for position in chosen(panel.instances or Sample(count=4, seed=0), candidates):
        rows = [(one, one.row(position)) for one in learned]
        last = np.array([one.last[row] for one, row in rows], dtype=np.float64)
        means = last.mean(axis=0)
        annotated = sorted({int(one.annotated[row]) for one, row in rows})
        others = [k for k in np.argsort(-means, kind="stable").tolist() if k not in annotated][:TOP]
        # The annotated class stands above the chart.
        title = "annotated: " + " / ".join(f"{names[k]}, {means[k] * factor(panel.scale):#.3g}" for k in annotated)
        bars = [Bar(k, "last", "" if k in annotated else names[k], last[:, k]) for k in (*annotated, *others)]
        _add_tile(results, panel, cell, learned[0], made, position, bars, title, annotated=" ".join(map(str, annotated)))
    made.notes.append(
        f"{panel.label}, {cell.label}: the {TOP} most probable classes but the annotated one at the last visit, of images that every done "
        f"run trained on ({len(candidates)}); means over the runs, each chart with an axis of its own; whiskers: ± spread."
    )


def _add_examples(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned], made: ImagePanel) -> None:
    """Add corrected images of the first run: the probabilities of the annotated and of the true class at the first and the last visit."""
    run, wrong = learned[0], learned[0].annotated != learned[0].true
    corrected = run.labels.indices[wrong & is_right(run.last, run.true)].tolist()
    repeat = ", ".join(f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run.run_id)].items())
    visits = {1: run.labels.block(0), run.labels.epochs: run.last}
    for position in chosen(panel.instances or Sample(count=8, seed=0), corrected):
        row = run.row(position)
        pair = {"annotated": int(run.annotated[row]), "true": int(run.true[row])}
        bars = [
            Bar(k, epoch, f"{run.training_set.class_names[k]}\n({kind})", labels[row, [k]])
            for kind, k in pair.items()
            for epoch, labels in visits.items()
        ]
        _add_tile(results, panel, cell, run, made, position, bars, "", repeat=repeat, **pair)
    made.reason = "no wrong label was corrected"
    made.notes.append(
        f"{panel.label}, {cell.label}, {repeat} (`{run.run_id}`): {len(corrected)} of {wrong.sum()} wrong labels were corrected, "
        f"out of {len(wrong)} training images. First and last epoch: the label {run.labels.when} the update at the image's visit."
    )


def _add_tile(
    results: Results, panel: Panel, cell: Cell, run: Learned, made: ImagePanel, position: int, bars: Sequence[Bar], title: str, **more: Any
) -> None:
    made.tiles.append({"row": cell.row, "instance": position, "image": run.training_set.png(position), "title": title})
    more |= {"metric": "label_probability", "instance": position}
    for bar in bars:
        summary = summarize(bar.values.tolist(), expected=len(cell.run_ids) if panel.type == "top_classes" else 1)
        of_bar = {"class": bar.number, "class_name": run.training_set.class_names[bar.number], "epoch": bar.epoch, "label": bar.label}
        made.points.append(make_point(results, panel, cell, summary, **more, **of_bar))
