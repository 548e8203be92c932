"""The label browser's part of the page: of a few runs a selection of their recorded labels, as JSON that the page's own script reads.

Which labels is a rule, so the same runs give the same ones; ``assets/report.html`` states it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from analysis.reading.images import Classes, annotated_classes, is_right, training_set_of
from analysis.reading.results import Results
from analysis.reading.runs import Record
from repro.errors import UserError
from repro.labels.trajectory import Trajectory

#: At most so many instances of a group, classes of an instance that are shown one by one, classes of class labels, and epochs.
PER_GROUP, TOP_CLASSES, CLASSES, EPOCHS = 8, 6, 100, 100

Item = dict[str, Any]


def browse(pages: Sequence[Results]) -> dict[str, Any]:
    """Return what the page's script shows of the cells of each page, and as ``problems`` what could not be read, in words.

    Of a cell it is the first finished run, if it has recorded labels. A final run records none, as it learns none; there the first of
    the runs whose labels it reads is shown.
    """
    shown: dict[str, Item] = {}
    images: dict[str, int] = {}
    problems: dict[str, None] = {}
    firsts = [(results, cell, run_id) for results in pages for cell in results.cells for run_id in results.done(cell)[:1]]
    for results, cell, run_id in firsts:
        try:
            names = (run_id, *(results.source.record(run_id)["fields"].get("inputs.labels") or ()))
            read = ((name, results.source.labels(name)) for name in names)
            name, labels = next(((name, labels) for name, labels in read if labels is not None and labels.epochs), (run_id, None))
        except UserError as error:
            problems[str(error)] = None
            continue
        if labels is not None:
            if name not in shown:
                shown[name] = {"id": name, "places": []} | _shown(results.source.record(name), labels, images, problems)
            repeat = [f"{key}={value}" for key, value in cell.repeats[cell.run_ids.index(run_id)].items()]
            title = ", ".join(filter(None, (cell.label, *repeat))) + f" (labels of {name})" * (name != run_id)
            shown[name]["places"].append({"page": results.spec.name, "title": title})
    return {"pages": [one.spec.name for one in pages], "runs": list(shown.values()), "images": list(images), "problems": list(problems)}


def _shown(record: Record, labels: Trajectory, images: dict[str, int], problems: dict[str, None]) -> Item:
    """Return the selected labels of a run, with what its dataset knows of them where that is on this machine."""
    about = {"dataset": record["fields"]["dataset.name"], "names": [], "kind": labels.kind, "when": labels.when}
    try:
        training_set = training_set_of(record)
        annotated = annotated_classes(record, training_set, labels.indices)
    except UserError as error:
        problems[str(error)] = None
        return about | select(labels)
    true = training_set.labels[labels.indices]
    shown = about | select(labels, annotated, true) | {"names": training_set.class_names[: labels.num_classes]}
    for item in shown["items"]:
        # The picture of a class is that of the first image of it that the run trained on.
        item["example"] = int(labels.indices[np.argmax(true == item["position"])]) if labels.kind == "class" else item["position"]
        item["image"] = images.setdefault(training_set.png(item["example"]), len(images))
    return shown


def select(labels: Trajectory, annotated: Classes | None = None, true: Classes | None = None) -> Item:
    """Return the selected labels of a run; ``annotated`` and ``true`` are classes (N,), ``None`` where they are not known.

    ``items`` are classes, or instances by their ``position`` in the published training set, with their ``values`` epoch by epoch: the
    probability of the class itself, or those of ``classes``; ``None`` where the run had diverged. ``groups`` name them by their places
    among the items, with the number of all that they were drawn from.
    """
    epochs = np.linspace(0, labels.epochs - 1, min(EPOCHS, labels.epochs)).round().astype(int)
    groups: dict[str, npt.NDArray[np.int64]] = {}
    if labels.kind == "class":
        items = {"position": np.arange(labels.num_classes)[:CLASSES]}
        values = 1.0 - np.stack([labels.block(int(epoch))[-1, :CLASSES] for epoch in epochs])[:, :, None]
    else:
        groups = _groups(labels, annotated, true)
        rows = list(dict.fromkeys(row for group in groups.values() for row in group[:PER_GROUP].tolist()))
        history = np.stack([labels.block(epoch)[rows] for epoch in range(labels.epochs)])
        classes = np.argsort(-np.fmax.reduce(history), axis=1, kind="stable")[:, :TOP_CLASSES]
        values = np.take_along_axis(history[epochs], classes[None], axis=2)
        begins = history[0].argmax(axis=1) if annotated is None else annotated[rows]
        items = {"position": labels.indices[rows], "classes": classes.tolist(), "begins": begins, "ends": history[-1].argmax(axis=1)}
        items |= {} if true is None else {"true": true[rows]}
    rounded = values.astype(np.float64).round(4).astype(object)
    rounded[np.isnan(values)] = None
    frame = pd.DataFrame(items | {"values": rounded.swapaxes(0, 1).tolist()})
    return {
        "num_classes": labels.num_classes,
        "planned": labels.planned,
        "epochs": (epochs + 1).tolist(),
        "items": frame.to_dict("records"),
        "groups": [
            {"name": name, "total": len(group), "items": [rows.index(row) for row in group[:PER_GROUP]]} for name, group in groups.items()
        ],
    }


def _groups(labels: Trajectory, annotated: Classes | None, true: Classes | None) -> dict[str, npt.NDArray[np.int64]]:
    """Return the rows of instances by group, first those that are taken."""
    first, last = labels.block(0), labels.block(labels.epochs - 1)
    if annotated is None or true is None:
        masks = {"Most probable class changed": first.argmax(axis=1) != last.argmax(axis=1)}
    else:
        wrong, right = annotated != true, is_right(last, true)
        masks = {"Repaired": wrong & right, "Spoilt": ~wrong & ~right, "Still wrong": wrong & ~right}
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.argsort(-np.nan_to_num(np.abs(last - first).sum(axis=1)), kind="stable")
    # The stream of RandomState is frozen: another release of NumPy draws the same.
    order = np.random.RandomState(0).permutation(len(last))
    return {"Moved most": moved, "Drawn at random": order} | {name: order[mask[order]] for name, mask in masks.items()}
