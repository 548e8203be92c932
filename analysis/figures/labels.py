"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.curves import cells_of, chosen, curve_points, kept_of, make_point, marked, repeat_of
from analysis.reading.images import Classes, annotated_classes, dataset_of, png, readable_names
from analysis.reading.results import Cell, Results
from analysis.reading.stats import Summary, summarize
from repro.data.types import RawDataset
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
    raw: RawDataset
    annotated: Classes
    true: Classes
    last: npt.NDArray[np.float32]


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
        return made | {"reason": f"no done run of {cell.label} has instance labels"}
    title = f"{panel.label}: {marked(cell.label, Summary(len(cell.run_ids), len(learned), 0, None, None))}"
    run_ids, one = [one.run_id for one in learned], learned[0]
    if panel.type == "examples":
        learned, wrong = [one], one.annotated != one.true
        candidates = set(one.labels.indices[wrong & (one.last.argmax(axis=1) == one.true)].tolist())
        note = (
            f"{repeat_of(cell, one.run_id)} (`{one.run_id}`): {len(candidates)} of {wrong.sum()} wrong labels were corrected, out of "
            f"{len(wrong)} training images. First and last epoch: the label {one.labels.when} the update at the image's visit."
        )
    else:
        candidates = set.intersection(*(set(one.labels.indices.tolist()) for one in learned))
        note = (
            f"the {TOP} most probable classes but the annotated one at the last visit, of {len(candidates)} images that every run "
            "trained on; means over the runs; whiskers: ± spread."
        )
    tiles = [_tile(results, panel, cell, learned, position) for position in chosen(panel.instances or Sample(count=4, seed=0), candidates)]
    return made | {"run_ids": run_ids, "title": title, "note": f"{title}: {note}", "tiles": tiles}


def _read(results: Results, run_id: str) -> Learned | None:
    """Return the instance labels of a done run; ``None`` where it recorded none.

    Raises:
        UserError: the run diverged, recorded labels are corrupted, or the dataset is not here or another than the run's.
    """
    labels, record = results.source.labels(run_id), results.source.record(run_id)
    if labels is None or labels.kind != "instance" or not labels.epochs:
        return None
    last = labels.block(labels.epochs - 1)
    if labels.epochs < labels.planned or not np.isfinite(last).all():
        raise UserError("a run diverged")
    raw = dataset_of(record)
    annotated = annotated_classes(record, raw, labels.indices)
    return Learned(run_id, labels, raw, annotated, raw.train.labels[raw.rows_of(labels.indices)], last)


def _tile(results: Results, panel: Panel, cell: Cell, learned: Sequence[Learned], position: int) -> dict[str, Any]:
    """Return one image with the bars of its label.

    Of an example they are the probabilities of the annotated and the true class at the first and the last visit in one run, else those of
    the annotated and of the most probable other classes at the last visit, as means over the runs.
    """
    first, names = learned[0], readable_names(learned[0].raw)
    rows = [(one, int(one.labels.rows_of(np.array([position]))[0])) for one in learned]
    last = np.stack([one.last[row] for one, row in rows]).astype(np.float64)
    annotated = sorted({int(one.annotated[row]) for one, row in rows})
    given = {"metric": "label_probability", "instance": position, "annotated": " ".join(map(str, annotated))}
    title, expected = "", len(cell.run_ids)
    if panel.type == "examples":
        row = rows[0][1]
        true = int(first.true[row])
        epochs: dict[Any, Any] = {1: first.labels.block(0)[[row]], first.labels.epochs: last}
        labels = {annotated[0]: f"{names[annotated[0]]}\n(annotated)", true: f"{names[true]}\n(true)"}
        given |= {"true": true, "repeat": repeat_of(cell, first.run_id)}
        expected = 1
    else:
        others = [k for k in np.argsort(-last.mean(axis=0), kind="stable").tolist() if k not in annotated]
        epochs, labels = {"last": last}, dict.fromkeys(annotated, "") | {k: names[k] for k in others[:TOP]}
        # The annotated class stands above the chart.
        title = "annotated: " + " / ".join(f"{names[k]}, {last[:, k].mean():#.3g}" for k in annotated)
    bars = [
        make_point(results, panel, cell, summarize(of_epoch[:, k].tolist(), expected=expected), **given)
        | {"class": k, "class_name": names[k], "epoch": epoch, "label": label}
        for k, label in labels.items()
        for epoch, of_epoch in epochs.items()
    ]
    return {"instance": position, "image": png(first.raw, position), "title": title, "bars": bars}
