"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.curves import cells_of, chosen, curve_points, kept_of, make_point, marked
from analysis.reading.images import Classes, TrainingSet, annotated_classes, is_right, training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.stats import factor, summarize
from repro.errors import UserError
from repro.labels.trajectory import Trajectory
from sweeps.spec import Panel, Sample

#: So many classes a chart of ``top_classes``.
TOP = 5

#: What a panel shows of one cell, as evidence keeps it: ``panel`` as the spec has it, ``place``: row and column, ``run_ids``, ``title``,
#: ``note``: how to read it, ``reason``: why it has no tiles, and ``tiles``: an image each, with its ``instance``, ``image`` (PNG in
#: base64), the ``title`` of its chart and its ``bars``, which are points.
ImagePanel = dict[str, Any]


@dataclass(frozen=True)
class Learned:
    """The instance labels of a done run.

    Attributes:
        annotated, true: classes (N,).
        last: labels (N, K) at the last visit.
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


def image_panels(results: Results) -> list[ImagePanel]:
    """Return what the panels of images show, cell by cell, from recorded labels or from evidence."""
    kept = [panel for run_id in results.runs.index for panel in kept_of(results, run_id).get("panels", [])]
    panels = []
    for panel in (panel for panel in results.spec.panels if panel.type != "curve"):
        for cell in cells_of(results, panel):
            wanted = {"panel": panel.model_dump(mode="json"), "place": list(cell.place)}
            stored = [one for one in kept if wanted.items() <= one.items()]
            panels.append(stored[0] if stored else wanted | _image_panel(results, panel, cell))
    return panels


def drawn_of(results: Results) -> dict[str, dict[str, Any]]:
    """Return by run, as JSON, what evidence keeps for this figure: names of classes, and the panels, each with the first of its runs.

    A run whose labels or dataset are not here has nothing.
    """
    drawn: defaultdict[str, dict[str, Any]] = defaultdict(lambda: {"class_names": {}, "panels": []})
    for panel in image_panels(results):
        if panel["run_ids"]:
            drawn[panel["run_ids"][0]]["panels"].append(panel)
    done = {cell.place: results.done(cell) for cell in results.cells}
    for point in curve_points(results):
        for run_id in done[point["row"], point["column"]] if point["class"] is not None else ():
            drawn[run_id]["class_names"][str(point["class"])] = point["class_name"]
    return dict(drawn)


def _image_panel(results: Results, panel: Panel, cell: Cell) -> ImagePanel:
    made: ImagePanel = {"run_ids": [], "title": "", "note": "", "tiles": [], "reason": "no wrong label was corrected"}
    try:
        learned = [one for run_id in results.done(cell) if (one := _read(results, run_id))]
    except UserError as error:
        return made | {"reason": " ".join(str(error).split())}
    if not learned:
        return made | {"reason": "no done run has instance labels"}
    if not all(one.labels.epochs == one.labels.planned and np.isfinite(one.last).all() for one in learned):
        return made | {"reason": "a run diverged"}
    note, tiles = (_top_classes if panel.type == "top_classes" else _examples)(results, panel, cell, learned)
    title = f"{panel.label}: {marked(cell.label, n=len(learned), expected=len(cell.run_ids), diverged=0)}"
    return made | {"run_ids": [one.run_id for one in learned], "title": title, "note": f"{title}: {note}", "tiles": tiles}


def _read(results: Results, run_id: str) -> Learned | None:
    """Return the instance labels of a done run; ``None`` where it recorded none.

    Raises:
        UserError: recorded labels are corrupted, or the dataset is not here or another than the run's.
    """
    labels, record = results.source.labels(run_id), results.source.record(run_id)
    if labels is None or labels.kind != "instance" or not labels.epochs:
        return None
    training_set = training_set_of(record)
    annotated, true = annotated_classes(record, training_set, labels.indices), training_set.labels[labels.indices]
    return Learned(run_id, labels, training_set, annotated, true, labels.block(labels.epochs - 1))


def _top_classes(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned]) -> tuple[str, list[dict[str, Any]]]:
    """Return of each chosen image the most probable classes but the annotated one, as means over the runs."""
    training_set, tiles = learned[0].training_set, []
    names = training_set.class_names
    common = set.intersection(*(set(one.labels.indices.tolist()) for one in learned))
    for position in chosen(panel.instances or Sample(count=4, seed=0), common):
        rows = [(one, one.row(position)) for one in learned]
        last = np.array([one.last[row] for one, row in rows], dtype=np.float64)
        annotated = sorted({int(one.annotated[row]) for one, row in rows})
        others = [k for k in np.argsort(-last.mean(axis=0), kind="stable").tolist() if k not in annotated]
        given = {"metric": "label_probability", "instance": position, "epoch": "last", "annotated": " ".join(map(str, annotated))}
        bars = [
            make_point(results, panel, cell, summarize(last[:, k].tolist(), expected=len(cell.run_ids)), **given)
            | {"class": k, "class_name": names[k], "label": "" if k in annotated else names[k]}
            for k in (*annotated, *others[:TOP])
        ]
        # The annotated class stands above the chart.
        title = " / ".join(f"{names[k]}, {bar['mean'] * factor(panel.scale):#.3g}" for k, bar in zip(annotated, bars, strict=False))
        image = training_set.png(position)
        tiles.append({"instance": position, "image": image, "title": f"annotated: {title}", "bars": bars})
    note = f"the {TOP} most probable classes but the annotated one at the last visit, of images that every run trained on ({len(common)}); "
    return note + "means over the runs, each chart with an axis of its own; whiskers: ± spread.", tiles


def _examples(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned]) -> tuple[str, list[dict[str, Any]]]:
    """Return corrected images of the first run: the probabilities of the annotated and the true class at the first and the last visit."""
    run, tiles = learned[0], []
    wrong, names = run.annotated != run.true, run.training_set.class_names
    corrected = run.labels.indices[wrong & is_right(run.last, run.true)].tolist()
    repeat = ", ".join(f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run.run_id)].items())
    epochs = ((1, run.labels.block(0)), (run.labels.epochs, run.last))
    for position in chosen(panel.instances or Sample(count=8, seed=0), corrected):
        row = run.row(position)
        pair = {"annotated": int(run.annotated[row]), "true": int(run.true[row])}
        given = {"metric": "label_probability", "instance": position, "repeat": repeat, **pair}
        bars = [
            make_point(results, panel, cell, summarize([float(labels[row, k])], expected=1), **given)
            | {"class": k, "class_name": names[k], "epoch": epoch, "label": f"{names[k]}\n({kind})"}
            for kind, k in pair.items()
            for epoch, labels in epochs
        ]
        tiles.append({"instance": position, "image": run.training_set.png(position), "title": "", "bars": bars})
    note = (
        f"{repeat} (`{run.run_id}`): {len(corrected)} of {wrong.sum()} wrong labels were corrected, out of {len(wrong)} training images. "
    )
    return note + f"First and last epoch: the label {run.labels.when} the update at the image's visit.", tiles
