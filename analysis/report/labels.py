"""The label browser's part of the page: of a few runs a selection of their recorded labels, as JSON that the page's own script reads.

Which labels is a rule, so the same runs give the same ones; ``assets/report.html`` states it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.figures.curves import repeat_of
from analysis.reading.images import Classes, annotated_classes, dataset_of, png, readable_names
from analysis.reading.results import Results
from analysis.reading.runs import Record
from repro.errors import UserError
from repro.labels.trajectory import Trajectory

#: So many instances that moved most, and as many that are drawn; classes of an instance that are shown one by one; epochs at most.
INSTANCES, TOP_CLASSES, EPOCHS = 20, 6, 100

Item = dict[str, Any]


def browse(pages: Sequence[Results]) -> dict[str, Any]:
    """Return what the page's script shows of the cells of each page, and as ``problems`` what could not be read, in words.

    Of a cell it is the first finished run, if it has recorded labels.
    """
    shown: dict[str, Item] = {}
    problems: dict[str, None] = {}
    firsts = [(results, cell, run_id) for results in pages for cell in results.cells for run_id in results.done(cell)[:1]]
    for results, cell, run_id in firsts:
        try:
            labels = results.source.labels(run_id)
        except UserError as error:
            problems[str(error)] = None
            continue
        if labels is not None and labels.epochs:
            if run_id not in shown:
                shown[run_id] = {"id": run_id, "places": []} | _shown(results.source.record(run_id), labels, problems)
            shown[run_id]["places"].append({"page": results.spec.name, "title": f"{cell.label}, {repeat_of(cell, run_id)}"})
    return {"runs": list(shown.values()), "problems": list(problems)}


def _shown(record: Record, labels: Trajectory, problems: dict[str, None]) -> Item:
    """Return the selected labels of a run, with what its dataset knows of them where that is on this machine."""
    about = {"dataset": record["fields"]["dataset.name"], "names": [], "kind": labels.kind, "when": labels.when}
    try:
        raw = dataset_of(record)
        annotated = annotated_classes(record, raw, labels.indices)
    except UserError as error:
        problems[str(error)] = None
        return about | select(labels)
    true = raw.train.labels[raw.rows_of(labels.indices)]
    shown = about | select(labels, annotated, true) | {"names": readable_names(raw)[: labels.num_classes]}
    for item in shown["items"]:
        # The picture of a class is that of the first image of it that the run trained on.
        item["example"] = int(labels.indices[np.argmax(true == item["position"])]) if labels.kind == "class" else item["position"]
        item["image"] = png(raw, item["example"])
    return shown


def select(labels: Trajectory, annotated: Classes | None = None, true: Classes | None = None) -> Item:
    """Return the selected labels of a run; ``annotated`` and ``true`` are classes (N,), ``None`` where they are not known.

    ``items`` are classes, or instances by their ``position`` in the published training set, with their ``values`` epoch by epoch: the
    probability of the class itself, or those of ``classes``; ``None`` where the run had diverged.
    """
    epochs = np.linspace(0, labels.epochs - 1, min(EPOCHS, labels.epochs)).round().astype(int).tolist()
    if labels.kind == "class":
        items = {"position": np.arange(labels.num_classes)}
        values = 1.0 - np.stack([labels.block(epoch)[-1] for epoch in epochs])[:, :, None].astype(np.float64)
    else:
        rows = _rows(labels)
        history = np.stack([labels.block(epoch)[rows] for epoch in epochs]).astype(np.float64)
        classes = np.argsort(-np.fmax.reduce(history), axis=1, kind="stable")[:, :TOP_CLASSES]
        values = np.take_along_axis(history, classes[None], axis=2)
        begins = history[0].argmax(axis=1) if annotated is None else annotated[rows]
        items = {"position": labels.indices[rows], "classes": classes.tolist(), "begins": begins, "ends": history[-1].argmax(axis=1)}
        items |= {} if true is None else {"true": true[rows]}
    shown = values.round(4).astype(object)
    shown[np.isnan(values)] = None
    return {
        "num_classes": labels.num_classes,
        "planned": labels.planned,
        "epochs": [epoch + 1 for epoch in epochs],
        "items": pd.DataFrame(items | {"values": shown.swapaxes(0, 1).tolist()}).to_dict("records"),
    }


def _rows(labels: Trajectory) -> npt.NDArray[np.int64]:
    """Return the rows of the instances that are shown."""
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.argsort(-np.nan_to_num(np.abs(labels.block(labels.epochs - 1) - labels.block(0)).sum(axis=1)), kind="stable")
    # The stream of RandomState is frozen: another release of NumPy draws the same.
    return np.concatenate([moved[:INSTANCES], np.random.RandomState(0).permutation(moved[INSTANCES:])[:INSTANCES]])
