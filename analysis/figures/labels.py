"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.curves import curve_points
from analysis.figures.points import Point, cells_of, chosen, how_chosen, kept_of, make_point, marked
from analysis.reading.images import Classes, TrainingSet, annotated_classes, name_of, training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.stats import factor, summarize
from repro.errors import UserError
from repro.files import number
from sweeps.spec import Panel, Sample

#: So many classes a chart of ``top_classes``.
TOP = 5
#: Where the spec does not say which images.
_TOP_CLASSES, _EXAMPLES = Sample(count=4, seed=0), Sample(count=8, seed=0)

Labels = npt.NDArray[np.float32]


@dataclass
class ImagePanel:
    """What a panel of images shows in one column of the figure; evidence keeps it as JSON.

    Attributes:
        panel: the panel as the spec has it.
        run_ids: whose labels are drawn.
        title: the rows, and what their runs lack.
        tiles: of each image ``row``, ``instance``, ``image`` (PNG in base64), ``title`` and ``reason``, why there is no chart beside it.
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
        positions: of its images in the published training set (N,).
        first, last: labels (N, K) at the first and the last visit; the last ones are NaN where the run diverged.
        annotated, true: classes (N,).
        when: whether labels were noted ``before`` or ``after`` the update of their visit (C3).
    """

    run_id: str
    positions: list[int]
    first: Labels
    last: Labels
    annotated: Classes
    true: Classes
    training_set: TrainingSet
    when: str
    epochs: int

    @property
    def diverged(self) -> bool:
        """Whether its last labels say nothing."""
        return not np.isfinite(self.last).all()


def image_panels(results: Results) -> list[ImagePanel]:
    """Return what the panels of images show, column by column, from recorded labels or from evidence."""
    kept = [panel for run_id in results.runs.index for panel in kept_of(results, run_id).get("panels", [])]
    panels = []
    for column in (line.label for line in results.spec.column_lines):
        for panel in (panel for panel in results.spec.panels if panel.type != "curve"):
            wanted = {"panel": panel.model_dump(mode="json"), "column": column}
            # Not one of runs that the plan no longer names.
            found = (one for one in kept if wanted.items() <= one.items() and set(one["run_ids"]) <= set(results.runs.index))
            panels.append(ImagePanel(**stored) if (stored := next(found, None)) else _image_panel(results, panel, column))
    return panels


def drawn_of(results: Results) -> dict[str, dict[str, Any]]:
    """Return by run, as JSON, what evidence keeps of labels for this figure: names of classes, and the panels, each with the first of its runs.

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
    cells = [cell for cell in cells_of(results, panel) if cell.column == column]
    titles = []
    try:
        for cell in cells:
            learned = [one for run_id in results.done(cell) if (one := _read(results, run_id))]
            made.run_ids += [one.run_id for one in learned]
            diverged = sum(one.diverged for one in learned)
            titles.append(marked(cell.row, n=len(learned), expected=len(cell.run_ids), diverged=diverged))
            if learned:
                (_add_top_classes if panel.type == "top_classes" else _add_examples)(results, panel, cell, learned, made)
            elif results.done(cell):
                made.reason = "no done run has instance labels"
    except UserError as error:
        return ImagePanel(made.panel, column, reason=" ".join(str(error).split()))
    made.title = ": ".join(filter(None, (column, panel.label, ", ".join(titles))))
    if len(cells) > 1:
        for tile in made.tiles:
            tile["title"] = ", ".join(filter(None, (tile["row"], tile["title"])))
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
    annotated, true = annotated_classes(record, training_set, labels.indices), training_set.labels[labels.indices]
    positions = labels.indices.tolist()
    return Learned(run_id, positions, labels.block(0), last, annotated, true, training_set, labels.when, labels.epochs)


def _add_top_classes(results: Results, panel: Panel, cell: Cell, learned: list[Learned], made: ImagePanel) -> None:
    """Add of each chosen image the most probable classes but the annotated one: the mean over the runs that trained on it."""
    wanted, common = panel.instances or _TOP_CLASSES, set.intersection(*(set(one.positions) for one in learned))
    positions, names = chosen(wanted, common), learned[0].training_set.class_names
    for position in positions:
        having = [(one, one.positions.index(position)) for one in learned if position in one.positions]
        diverged = sum(one.diverged for one, _ in having)
        values = np.array([one.last[row] for one, row in having]).reshape(-1, len(names)).T.tolist()
        summaries = [summarize(of_class, expected=len(cell.run_ids)) for of_class in values]
        means = [summary.mean or 0.0 for summary in summaries]
        annotated = sorted({int(one.annotated[row]) for one, row in having})
        others = sorted(set(range(len(names))) - set(annotated), key=lambda number: (-means[number], number))[:TOP]
        reason = "diverged" if diverged else "" if having else "no done run trained on it"
        called = [name_of(names, k) + ("" if reason else f", {means[k] * factor(panel.scale):#.3g}") for k in annotated]
        title = marked(f"annotated: {' / '.join(called)}", n=len(having), expected=len(cell.run_ids), diverged=diverged)
        image = learned[0].training_set.png(position)
        made.tiles.append({"row": cell.row, "instance": position, "image": image, "title": title, "reason": reason})
        for k in () if reason else (*annotated, *others):
            more = {"class": k, "class_name": name_of(names, k), "annotated": " ".join(map(str, annotated))}
            more |= {"metric": "label_probability", "instance": position, "epoch": "last"}
            # The annotated class stands in the title.
            made.points.append(make_point(results, panel, cell, summaries[k], label="" if k in annotated else name_of(names, k), **more))
    how = how_chosen(wanted, f"the {len(common)} that every done run trained on")
    made.notes.append(
        f"{panel.label}, {cell.label}: the {TOP} most probable classes but the annotated one at the last visit, mean over the runs that "
        f"trained on the image, each chart with an axis of its own; whiskers: ± spread. Images {', '.join(map(str, positions))}, {how}."
    )


def _add_examples(results: Results, panel: Panel, cell: Cell, learned: list[Learned], made: ImagePanel) -> None:
    """Add corrected images of the first run that did not diverge: the probabilities of the annotated and the true class, first and last."""
    run = next((one for one in learned if not one.diverged), None)
    if run is None:
        made.reason = "every done run diverged"
        return
    wrong = run.annotated != run.true
    corrected = [run.positions[row] for row in np.flatnonzero(wrong & is_right(run.last, run.true))]
    wanted, made.reason = panel.instances or _EXAMPLES, "no wrong label was corrected"
    repeat = ", ".join(f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run.run_id)].items())
    made.notes.append(
        f"{panel.label}: {cell.label}, {repeat} (`{run.run_id}`): {len(corrected)} of its {wrong.sum()} wrongly annotated images were "
        f"corrected, out of {len(wrong)} training images; {how_chosen(wanted, 'these')}. First and last epoch: the label {run.when} the "
        "update at the image's visit; one run, so no spread."
    )
    for position in (position for position in chosen(wanted, corrected) if position in corrected):
        row = run.positions.index(position)
        image = run.training_set.png(position)
        made.tiles.append({"row": cell.row, "instance": position, "image": image, "title": "", "reason": ""})
        pair = {"annotated": int(run.annotated[row]), "true": int(run.true[row])}
        for kind, k in pair.items():
            name = name_of(run.training_set.class_names, k)
            more = {"metric": "label_probability", "instance": position, "repeat": repeat, "class": k, "class_name": name, **pair}
            for epoch, visit in ((1, run.first), (run.epochs, run.last)):
                summary = summarize([float(visit[row, k])], expected=1)
                made.points.append(make_point(results, panel, cell, summary, epoch=epoch, label=f"{name}\n({kind})", **more))


def is_right(labels: Labels, true: Classes) -> npt.NDArray[np.bool_]:
    """Return whether the true class (N,) alone is the most probable one of each label (N, K)."""
    right: npt.NDArray[np.bool_] = (labels >= np.take_along_axis(labels, true[:, None], axis=1)).sum(axis=1) == 1
    return right
