"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.curves import curve_points
from analysis.figures.points import Point, cells_of, chosen, kept_of, make_point, marked
from analysis.reading.images import Classes, TrainingSet, annotated_classes, name_of, training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.stats import factor, summarize
from repro.errors import UserError
from repro.files import number
from repro.labels.trajectory import Trajectory
from sweeps.spec import Panel, Sample

#: So many classes a chart of ``top_classes``.
TOP = 5
#: Where the spec does not say which images.
_WANTED = {"top_classes": Sample(count=4, seed=0), "examples": Sample(count=8, seed=0)}

Labels = npt.NDArray[np.float32]


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
        first, last: labels (N, K) at the first and the last visit; the last ones are NaN where the run diverged.
    """

    run_id: str
    labels: Trajectory
    training_set: TrainingSet
    annotated: Classes
    true: Classes
    first: Labels
    last: Labels

    @property
    def diverged(self) -> bool:
        """Whether its last labels say nothing."""
        return not np.isfinite(self.last).all()

    def row(self, position: int) -> int:
        """Return which of its images has that position in the published training set."""
        return int(np.flatnonzero(self.labels.indices == position)[0])


def image_panels(results: Results) -> list[ImagePanel]:
    """Return what the panels of images show, column by column, from recorded labels or from evidence."""
    kept = [panel for run_id in results.runs.index for panel in kept_of(results, run_id).get("panels", [])]
    panels = []
    for column in (line.label for line in results.spec.column_lines):
        for panel in (panel for panel in results.spec.panels if panel.type != "curve"):
            wanted = {"panel": panel.model_dump(mode="json"), "column": column}
            # Not one of runs that the plan no longer names.
            stored = [one for one in kept if wanted.items() <= one.items() and set(one["run_ids"]) <= set(results.runs.index)]
            panels.append(ImagePanel(**stored[0]) if stored else _image_panel(results, panel, column))
    return panels


def drawn_of(results: Results) -> dict[str, dict[str, Any]]:
    """Return by run, as JSON, what evidence keeps for this figure: names of classes, and the panels, each with the first of its runs.

    A run whose labels or dataset are not here has nothing.
    """
    drawn: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"class_names": {}, "panels": []})
    for panel in image_panels(results):
        if panel.run_ids:
            drawn[panel.run_ids[0]]["panels"].append(asdict(panel))
    cells = {cell.place: cell for cell in results.cells}
    for point in curve_points(results):
        if point["class"] is not None:
            for run_id in results.done(cells[point["row"], point["column"]]):
                drawn[run_id]["class_names"][str(point["class"])] = point["class_name"]
    return dict(drawn)


def _image_panel(results: Results, panel: Panel, column: str) -> ImagePanel:
    made = ImagePanel(panel.model_dump(mode="json"), column)
    rows = []
    try:
        for cell in (cell for cell in cells_of(results, panel) if cell.column == column):
            learned = [one for run_id in results.done(cell) if (one := _read(results, run_id))]
            diverged = sum(one.diverged for one in learned)
            rows.append(marked(cell.row, n=len(learned), expected=len(cell.run_ids), diverged=diverged))
            made.run_ids += [one.run_id for one in learned]
            if diverged:
                made.reason = "a run diverged"
            elif learned:
                (_add_top_classes if panel.type == "top_classes" else _add_examples)(results, panel, cell, learned, made)
            elif results.done(cell):
                made.reason = "no done run has instance labels"
    except UserError as error:
        return ImagePanel(made.panel, column, reason=" ".join(str(error).split()))
    made.title = ": ".join(filter(None, (column, panel.label, ", ".join(rows))))
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
    last, loss = labels.block(labels.epochs - 1), number(record["final"].get("train/loss", {}).get("last", 0.0))
    if labels.epochs < labels.planned or not math.isfinite(loss):
        last = np.full_like(last, math.nan)
    annotated = annotated_classes(record, training_set, labels.indices)
    return Learned(run_id, labels, training_set, annotated, training_set.labels[labels.indices], labels.block(0), last)


def _add_top_classes(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned], made: ImagePanel) -> None:
    """Add of each chosen image the most probable classes but the annotated one, as means over the runs."""
    common = set.intersection(*(set(one.labels.indices.tolist()) for one in learned))
    names = learned[0].training_set.class_names
    for position in chosen(panel.instances or _WANTED[panel.type], common):
        rows = [one.row(position) for one in learned]
        last = np.stack([one.last[row] for one, row in zip(learned, rows, strict=True)])
        summaries = [summarize(values, expected=len(cell.run_ids)) for values in last.T.tolist()]
        annotated = sorted({int(one.annotated[row]) for one, row in zip(learned, rows, strict=True)})
        others = sorted(set(range(len(names))) - set(annotated), key=lambda k: (-summaries[k].mean, k))
        title = " / ".join(f"{name_of(names, k)}, {summaries[k].mean * factor(panel.scale):#.3g}" for k in annotated)
        _add_tile(made, cell, position, learned[0], f"annotated: {title}")
        for k in (*annotated, *others[:TOP]):
            more = {"class": k, "class_name": name_of(names, k), "annotated": " ".join(map(str, annotated)), "epoch": "last"}
            # The annotated class stands in the title.
            more |= {"metric": "label_probability", "instance": position, "label": "" if k in annotated else name_of(names, k)}
            made.points.append(make_point(results, panel, cell, summaries[k], **more))
    made.notes.append(
        f"{panel.label}: the {TOP} most probable classes but the annotated one at the last visit, of images among the {len(common)} that "
        f"every done run of {cell.label} trained on; mean over the runs, each chart with an axis of its own; whiskers: ± spread."
    )


def _add_examples(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned], made: ImagePanel) -> None:
    """Add corrected images of the first run: the probabilities of the annotated and of the true class at the first and the last visit."""
    run = learned[0]
    wrong = run.annotated != run.true
    corrected = run.labels.indices[wrong & is_right(run.last, run.true)].tolist()
    repeat = ", ".join(f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run.run_id)].items())
    made.reason = "no wrong label was corrected"
    made.notes.append(
        f"{panel.label}: {cell.label}, {repeat} (`{run.run_id}`): {len(corrected)} of its {wrong.sum()} wrongly annotated images were "
        f"corrected, out of {len(wrong)} training images. First and last epoch: the label {run.labels.when} the update at the image's "
        "visit; one run, so no spread."
    )
    for position in chosen(panel.instances or _WANTED[panel.type], corrected):
        row = run.row(position)
        _add_tile(made, cell, position, run, "")
        pair = {"annotated": int(run.annotated[row]), "true": int(run.true[row])}
        for kind, k in pair.items():
            name = name_of(run.training_set.class_names, k)
            more = {"class": k, "class_name": name, "repeat": repeat, "label": f"{name}\n({kind})", **pair}
            for epoch, visit in ((1, run.first), (run.labels.epochs, run.last)):
                summary = summarize([float(visit[row, k])], expected=1)
                more |= {"metric": "label_probability", "instance": position, "epoch": epoch}
                made.points.append(make_point(results, panel, cell, summary, **more))


def _add_tile(made: ImagePanel, cell: Cell, position: int, run: Learned, title: str) -> None:
    made.tiles.append({"row": cell.row, "instance": position, "image": run.training_set.png(position), "title": title})


def is_right(labels: Labels, true: Classes) -> npt.NDArray[np.bool_]:
    """Return whether the true class (N,) alone is the most probable one of each label (N, K)."""
    right: npt.NDArray[np.bool_] = (labels >= np.take_along_axis(labels, true[:, None], axis=1)).sum(axis=1) == 1
    return right
