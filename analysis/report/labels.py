"""The label browser's part of the page: of a few runs a selection of their recorded labels, as JSON that the page's own script reads.

Which labels is a rule, so the same runs give the same ones: see :data:`RULE`. It bounds what a run takes to some 100 KB.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from analysis.reading.cells import Collected
from analysis.reading.images import Classes, TrainingSet, annotated_classes, name_of
from analysis.reading.learned import is_right, png
from analysis.reading.runs import Run, read_run
from analysis.report.markdown import data_uri
from repro.errors import UserError
from repro.labels.trajectory import Trajectory

#: What returns the training set that a run was cut out of, or ``None`` where it is not on this machine: ``TrainingSets().of``.
TrainingSetOf = Callable[[Run], TrainingSet | None]

#: At most so many instances of a group, classes of an instance that are shown one by one, classes of class labels, and epochs.
PER_GROUP, TOP_CLASSES, CLASSES, EPOCHS = 8, 6, 100, 100
_SEED = 0
MOVED, DRAWN, CHANGED = "Moved most", "Drawn at random", "Most probable class changed"
#: Where the true classes are known, these take the place of ``CHANGED``.
REPAIRED, SPOILT, STILL_WRONG = "Repaired", "Spoilt", "Still wrong"

#: Which labels of a run are selected, in words.
RULE = (
    f"Class labels: all classes, at most the first {CLASSES}, after the last step of each epoch. Instance labels, at their visit in "
    f"each epoch: the {PER_GROUP} that moved most (half the sum of absolute differences between the first and the last recorded label; "
    f"of equal ones the first), and drawn with seed {_SEED} {PER_GROUP} of all, of those that were repaired (annotated wrongly, in the end "
    "the right class alone is the most probable one), spoilt (annotated rightly, in the end it is not) and still wrong (annotated wrongly, "
    "in the end it is not); where the true classes are not known, of those whose most probable class is another one in the end. Of an "
    f"instance, the {TOP_CLASSES} classes with the highest probability in any epoch; the others are summed. Of more than {EPOCHS} epochs, "
    f"{EPOCHS} evenly spaced ones."
)

#: Probabilities are stored in 10,000ths; this stands for NaN among them.
NOT_A_NUMBER = 65535
_UNIT = 10_000

Item = dict[str, Any]


def browse(
    pages: Mapping[str, Sequence[Collected]], runs: Path, training_set_of: TrainingSetOf, link: str
) -> tuple[dict[str, Any], list[str]]:
    """Return what the page's script shows of the cells of each page, and what could not be read, in words.

    Of a cell it is the first finished repeat, if it has recorded labels. A final run records none, as it learns none; there the first of
    the runs whose labels it reads is shown. ``link`` is how the page reaches the run folders.
    """
    found: dict[str, Item] = {}
    images: dict[str, int] = {}
    problems: dict[str, None] = {}

    def note(run: Run, error: UserError) -> None:
        # The page must not depend on where the runs lie.
        problems[f"{run.run_id}: {error}".replace(f"{runs}/", "")] = None

    for page, cells in pages.items():
        for cell in cells:
            repeat = next((repeat for repeat in cell.repeats if repeat.run.done), None)
            run = None if repeat is None else _recorded(repeat.run, runs)
            if repeat is None or run is None:
                continue
            title = ", ".join(filter(None, (cell.label, repeat.label)))
            if run is not repeat.run:
                fold = run.fields.get("split.fold")
                title += " (labels from a run)" if fold is None else f" (labels from fold {fold})"
            if run.run_id not in found:
                try:
                    shown = _shown(run, training_set_of, images, note)
                except UserError as error:
                    note(run, error)
                    continue
                dataset = str(run.fields.get("dataset.name", "unknown dataset"))
                found[run.run_id] = shown | {"id": run.run_id, "link": f"{link}/{quote(run.run_id)}/", "dataset": dataset, "places": []}
            found[run.run_id]["places"].append({"page": page, "title": title})
    data = {"unit": _UNIT, "nan": NOT_A_NUMBER, "pages": list(pages), "runs": list(found.values()), "images": list(images)}
    return data, list(problems)


def _shown(run: Run, training_set_of: TrainingSetOf, images: dict[str, int], note: Callable[[Run, UserError], None]) -> Item:
    """Return the selected labels of ``run``, with what its dataset knows of them; what is wrong with that is noted."""
    labels = run.labels()
    assert labels is not None
    training_set, truth = None, None
    try:
        training_set = training_set_of(run)
        if training_set is not None and labels.kind == "instance":
            truth = annotated_classes(run, training_set, labels.indices), training_set.labels[labels.indices]
    except UserError as error:
        note(run, error)
        training_set = None
    shown = select(labels, truth)
    if training_set is not None:
        _add_pictures(shown["items"], labels, training_set, images)
        shown["names"] = [name_of(training_set.class_names, number) for number in range(labels.num_classes)]
    return shown


def _recorded(run: Run, runs: Path) -> Run | None:
    if run.open_labels is not None:
        return run
    names = run.fields.get("inputs.labels") or ()
    return next((read for name in names if (read := read_run(runs / str(name))).open_labels is not None), None)


def select(labels: Trajectory, truth: tuple[Classes, Classes] | None = None) -> Item:
    """Return the selected labels of a run, reading an epoch at a time; ``truth`` are the annotated and the true classes, (N,) each.

    ``items`` are classes, or instances by their ``position`` in the published training set, with their ``values`` epoch by epoch
    (:func:`encode`): the probability of the class itself, or those of ``classes``. ``groups`` name them by their places among the items,
    with the number of all that they were drawn from.

    Raises:
        UserError: its files are not what the run wrote, or hold no whole epoch.
    """
    if not labels.epochs:
        raise UserError(f"{labels.path}: no whole epoch was recorded.")
    epochs = np.linspace(0, labels.epochs - 1, min(EPOCHS, labels.epochs)).round().astype(int).tolist()
    if labels.kind == "class":
        alpha = np.stack([labels.block(epoch)[-1, :CLASSES] for epoch in epochs], axis=1)
        items: list[Item] = [{"position": number, "values": encode(1.0 - values)} for number, values in enumerate(alpha)]
        groups: list[Item] = [{"name": "Classes", "items": list(range(len(items))), "total": labels.num_classes}]
    else:
        items, groups = _instances(labels, epochs, truth)
    about = {"kind": labels.kind, "when": labels.when, "num_classes": labels.num_classes, "planned": labels.planned}
    return about | {"epochs": [epoch + 1 for epoch in epochs], "items": items, "groups": groups, "names": ()}


def _instances(labels: Trajectory, epochs: Sequence[int], truth: tuple[Classes, Classes] | None) -> tuple[list[Item], list[Item]]:
    first, last = labels.block(0), labels.block(labels.epochs - 1)
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.nan_to_num(np.abs(last - first).sum(axis=1) / 2)
    begins, ends = first.argmax(axis=1), last.argmax(axis=1)
    drawn_from = {DRAWN: np.ones(len(last), dtype=bool)}
    if truth is None:
        drawn_from[CHANGED] = begins != ends
    else:
        begins, true = truth
        right, wrong = is_right(last, true), begins != true
        drawn_from |= {REPAIRED: wrong & right, SPOILT: ~wrong & ~right, STILL_WRONG: wrong & ~right}
    chosen = {MOVED: np.argsort(-moved, kind="stable")[:PER_GROUP].tolist()}
    for name, mask in drawn_from.items():
        # The stream of RandomState is frozen: another release of NumPy draws the same.
        chosen[name] = np.random.RandomState(_SEED).permutation(np.flatnonzero(mask))[:PER_GROUP].tolist()
    rows = list(dict.fromkeys(row for group in chosen.values() for row in group))
    highest = np.full((len(rows), labels.num_classes), -1.0)
    for epoch in range(labels.epochs):
        highest = np.fmax(highest, labels.block(epoch)[rows])
    classes = np.argsort(-highest, axis=1, kind="stable")[:, :TOP_CLASSES]
    # (instances, epochs, classes)
    values = np.stack([np.take_along_axis(labels.block(epoch)[rows], classes, axis=1) for epoch in epochs], axis=1)
    items: list[Item] = [
        {
            "position": int(labels.indices[row]),
            "classes": classes[place].tolist(),
            "values": encode(values[place]),
            "begins": int(begins[row]),
            "ends": int(ends[row]) if np.isfinite(last[row]).all() else None,
        }
        | ({} if truth is None else {"annotated": int(truth[0][row]), "true": int(truth[1][row])})
        for place, row in enumerate(rows)
    ]
    totals = {MOVED: len(moved), **{name: int(mask.sum()) for name, mask in drawn_from.items()}}
    groups = [{"name": name, "items": [rows.index(row) for row in group], "total": totals[name]} for name, group in chosen.items()]
    return items, groups


def encode(values: npt.NDArray[np.float32]) -> str:
    """Return probabilities, row by row, as base64 of little-endian uint16 in 10,000ths; NaN is :data:`NOT_A_NUMBER`."""
    units = np.clip(np.nan_to_num(values.astype(np.float64)), 0.0, 1.0) * _UNIT
    stored = np.where(np.isfinite(values), units.round(), NOT_A_NUMBER)
    return base64.b64encode(stored.astype("<u2").tobytes()).decode("ascii")


def _add_pictures(items: list[Item], labels: Trajectory, found: TrainingSet, images: dict[str, int]) -> None:
    """Give each of ``items`` the place of its image among ``images``, which runs on one dataset share.

    A class has that of its ``example``, the first image of it that the run trained on.
    """
    true = found.labels[labels.indices].tolist()
    for item in items:
        image = item["position"]
        if labels.kind == "class":
            if image not in true:
                continue
            image = item["example"] = int(labels.indices[true.index(image)])
        item["image"] = images.setdefault(data_uri(png(found.image(image)), "image/png"), len(images))
