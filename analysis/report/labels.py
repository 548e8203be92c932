"""The label browser's part of the page: of a few runs a selection of their recorded labels, as JSON that the page's own script reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.figures.labels import is_right
from analysis.reading.images import Classes, annotated_classes, name_of, training_set_of
from analysis.reading.results import Cell, Results
from analysis.reading.runs import Record
from repro.errors import UserError
from repro.labels.trajectory import Trajectory

#: At most so many instances of a group, classes of an instance that are shown one by one, classes of class labels, and epochs.
PER_GROUP, TOP_CLASSES, CLASSES, EPOCHS = 8, 6, 100, 100
_SEED = 0

#: Which labels of a run are selected, in words; the same runs give the same ones.
RULE = (
    f"Class labels: all classes, at most the first {CLASSES}, after the last step of each epoch. Instance labels, at their visit in "
    f"each epoch: the {PER_GROUP} that moved most (half the sum of absolute differences between the first and the last recorded label; "
    f"of equal ones the first), and drawn with seed {_SEED} {PER_GROUP} of all, of those that were repaired (annotated wrongly, in the end "
    "the right class alone is the most probable one), spoilt (annotated rightly, in the end it is not) and still wrong (annotated wrongly, "
    "in the end it is not); where the true classes are not known, of those whose most probable class is another one in the end. Of an "
    f"instance, the {TOP_CLASSES} classes with the highest probability in any epoch; the others are summed. Of more than {EPOCHS} epochs, "
    f"{EPOCHS} evenly spaced ones."
)

#: Probabilities are stored in 10,000ths.
_UNIT = 10_000

Item = dict[str, Any]


def browse(pages: Sequence[Results]) -> tuple[dict[str, Any], list[str]]:
    """Return what the page's script shows of the cells of each page, and what could not be read, in words.

    Of a cell it is the first finished run, if it has recorded labels. A final run records none, as it learns none; there the first of
    the runs whose labels it reads is shown.
    """
    shown: dict[str, Item] = {}
    images: dict[str, int] = {}
    problems: dict[str, None] = {}
    for results in pages:
        for cell in results.cells:
            for run_id in results.done(cell)[:1]:
                try:
                    for name in (run_id, *(results.runs.get("inputs.labels", {}).get(run_id) or ())):
                        labels = None if name in shown else results.source.labels(name)
                        if labels is not None:
                            shown[name] = _shown(results.source.record(name), labels, images, problems)
                        if name in shown:
                            shown[name]["places"].append({"page": results.spec.name, "title": _title(cell, run_id, shown[name])})
                            break
                except UserError as error:
                    _note(problems, results.source.record(run_id), error)
    names = [results.spec.name for results in pages]
    return {"unit": _UNIT, "pages": names, "runs": list(shown.values()), "images": list(images)}, list(problems)


def _title(cell: Cell, run_id: str, shown: Item) -> str:
    repeat = cell.repeats[cell.run_ids.index(run_id)]
    title = ", ".join(filter(None, (cell.label, *(f"{key}={value}" for key, value in repeat.items()))))
    return title if shown["id"] == run_id else f"{title} (labels from fold {shown['fold']})"


def _note(problems: dict[str, None], record: Record, error: UserError) -> None:
    # The page must not depend on where the runs lie.
    problems[f"{record['run_id']}: {error}".replace(f"{Path(record['place']).parent}/", "")] = None


def _shown(record: Record, labels: Trajectory, images: dict[str, int], problems: dict[str, None]) -> Item:
    """Return the selected labels of a run, with what its dataset knows of them; what is wrong with that is noted."""
    training_set = truth = None
    try:
        training_set = training_set_of(record)
        if labels.kind == "instance":
            truth = annotated_classes(record, training_set, labels.indices), training_set.labels[labels.indices]
    except UserError as error:
        _note(problems, record, error)
    fields = record["fields"]
    shown = {"id": record["run_id"], "dataset": fields["dataset.name"], "fold": fields.get("split.fold"), "places": [], "names": []}
    shown |= select(labels, truth)
    if training_set is not None:
        shown["names"] = [name_of(training_set.class_names, number) for number in range(labels.num_classes)]
        for item in shown["items"]:
            if labels.kind == "class":
                # Its picture is that of the first image of the class that the run trained on.
                of_class = labels.indices[training_set.labels[labels.indices] == item["position"]]
                if not len(of_class):
                    continue
                item["example"] = int(of_class[0])
            png = training_set.png(item.get("example", item["position"]))
            item["image"] = images.setdefault(png, len(images))
    return shown


def select(labels: Trajectory, truth: tuple[Classes, Classes] | None = None) -> Item:
    """Return the selected labels of a run, reading an epoch at a time; ``truth`` are the annotated and the true classes, (N,) each.

    ``items`` are classes, or instances by their ``position`` in the published training set, with their ``values`` epoch by epoch: the
    probability of the class itself, or those of ``classes``; ``None`` where the run had diverged. ``groups`` name them by their places
    among the items, with the number of all that they were drawn from.

    Raises:
        UserError: the files are cut short, or hold no whole epoch.
    """
    if not labels.epochs:
        raise UserError(f"{labels.path}: no whole epoch was recorded.")
    epochs = np.linspace(0, labels.epochs - 1, min(EPOCHS, labels.epochs)).round().astype(int).tolist()
    if labels.kind == "class":
        alpha = np.stack([labels.block(epoch)[-1, :CLASSES] for epoch in epochs], axis=1)
        items = [{"position": number, "values": _units(1.0 - values[:, None])} for number, values in enumerate(alpha)]
        groups = []
    else:
        items, groups = _instances(labels, epochs, truth)
    about = {"kind": labels.kind, "when": labels.when, "num_classes": labels.num_classes, "planned": labels.planned}
    return about | {"epochs": [epoch + 1 for epoch in epochs], "items": items, "groups": groups}


def _instances(labels: Trajectory, epochs: Sequence[int], truth: tuple[Classes, Classes] | None) -> tuple[list[Item], list[Item]]:
    first, last = labels.block(0), labels.block(labels.epochs - 1)
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.nan_to_num(np.abs(last - first).sum(axis=1) / 2)
    begins, ends = (first.argmax(axis=1) if truth is None else truth[0]), last.argmax(axis=1)
    everything = np.ones(len(last), dtype=bool)
    if truth is None:
        masks = {"Most probable class changed": begins != ends}
    else:
        wrong, right = begins != truth[1], is_right(last, truth[1])
        masks = {"Repaired": wrong & right, "Spoilt": ~wrong & ~right, "Still wrong": wrong & ~right}
    chosen = {"Moved most": (everything, np.argsort(-moved, kind="stable"))}
    # The stream of RandomState is frozen: another release of NumPy draws the same.
    for name, mask in ({"Drawn at random": everything} | masks).items():
        chosen[name] = mask, np.random.RandomState(_SEED).permutation(np.flatnonzero(mask))
    rows = list(dict.fromkeys(row for _, order in chosen.values() for row in order[:PER_GROUP].tolist()))
    groups = [
        {"name": name, "items": [rows.index(row) for row in order[:PER_GROUP]], "total": int(mask.sum())}
        for name, (mask, order) in chosen.items()
    ]
    history = np.stack([labels.block(epoch)[rows] for epoch in range(labels.epochs)])
    classes = np.argsort(-np.fmax.reduce(history), axis=1, kind="stable")[:, :TOP_CLASSES]
    values = np.take_along_axis(history[epochs], classes[None], axis=2)
    items = [
        {
            "position": int(labels.indices[row]),
            "classes": classes[place].tolist(),
            "values": _units(values[:, place]),
            "begins": int(begins[row]),
            "ends": int(ends[row]) if np.isfinite(last[row]).all() else None,
        }
        | ({} if truth is None else {"true": int(truth[1][row])})
        for place, row in enumerate(rows)
    ]
    return items, groups


def _units(values: npt.NDArray[np.floating[Any]]) -> list[list[int | None]]:
    """Return probabilities (epochs, columns) in 10,000ths, ``None`` for NaN."""
    return [[round(_UNIT * value) if np.isfinite(value) else None for value in row] for row in np.clip(values, 0.0, 1.0).tolist()]
