"""The label browser's part of the page: of a few runs a selection of their recorded labels, as JSON that the page's own script reads.

Which labels is a rule, so the same runs give the same ones: see :data:`RULE`. It bounds what a run takes to some 100 KB.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from PIL import Image

from analysis.reading.cells import Collected
from analysis.reading.images import TrainingSet, annotated_classes, name_of
from analysis.reading.runs import Run, read_run
from analysis.report.markdown import data_uri
from repro.errors import UserError
from repro.labels.trajectory import Trajectory

#: What returns the training set that a run was cut out of, or ``None`` where it is not on this machine: ``TrainingSets().of``.
TrainingSetOf = Callable[[Run], TrainingSet | None]

#: At most so many instances of a group, classes of an instance that are shown one by one, classes of class labels, and epochs.
PER_GROUP, TOP_CLASSES, CLASSES, EPOCHS = 8, 6, 100, 100
_SEED = 0

#: Which labels of a run are selected, in words.
RULE = (
    f"Class labels: all classes, at most the first {CLASSES}, after the last step of each epoch. Instance labels, at their visit in "
    f"each epoch: the {PER_GROUP} that moved most (half the sum of absolute differences between the first and the last recorded label; "
    f"of equal ones the first), {PER_GROUP} drawn with seed {_SEED}, and of those whose most probable class is another one in the end "
    f"{PER_GROUP} drawn with seed {_SEED}. Of an instance, the {TOP_CLASSES} classes with the highest probability in any epoch; the "
    f"others are summed. Of more than {EPOCHS} epochs, {EPOCHS} evenly spaced ones."
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
                    labels = run.labels()
                    assert labels is not None
                    shown = select(labels)
                except UserError as error:
                    note(run, error)
                    continue
                try:
                    shown["names"] = _add_pictures(shown["items"], run, labels, training_set_of(run), images)
                except UserError as error:
                    note(run, error)
                dataset = str(run.fields.get("dataset.name", "unknown dataset"))
                about = {"id": run.run_id, "link": f"{link}/{quote(run.run_id)}/", "page": page, "title": title, "dataset": dataset}
                found[run.run_id] = shown | about | {"places": []}
            found[run.run_id]["places"].append(f"{page}: {title}")
    data = {"unit": _UNIT, "nan": NOT_A_NUMBER, "runs": list(found.values()), "images": list(images)}
    return data, list(problems)


def _recorded(run: Run, runs: Path) -> Run | None:
    """Return ``run`` or the first of the runs that it reads, whichever has recorded labels."""
    if run.open_labels is not None:
        return run
    names = run.fields.get("inputs.labels") or ()
    return next((read for name in names if (read := read_run(runs / str(name))).open_labels is not None), None)


def select(labels: Trajectory) -> Item:
    """Return the selected labels of a run, reading an epoch at a time.

    ``items`` are classes, or instances by their ``position`` in the published training set, with their ``values`` epoch by epoch
    (:func:`encode`): the probability of the class itself, or those of ``classes``. ``groups`` name them by their places among the items.

    Raises:
        UserError: its files are not what the run wrote, or hold no whole epoch.
    """
    if not labels.epochs:
        raise UserError(f"{labels.path}: no whole epoch was recorded.")
    epochs = np.linspace(0, labels.epochs - 1, min(EPOCHS, labels.epochs)).round().astype(int).tolist()
    items, groups = (_classes if labels.kind == "class" else _instances)(labels, epochs)
    return {
        "kind": labels.kind,
        "when": labels.when,
        "num_classes": labels.num_classes,
        "planned": labels.planned,
        "epochs": [epoch + 1 for epoch in epochs],
        "items": items,
        "groups": [{"name": name, "items": places} for name, places in groups.items() if places],
        "names": (),
    }


def _classes(labels: Trajectory, epochs: Sequence[int]) -> tuple[list[Item], dict[str, list[int]]]:
    alpha = np.stack([labels.block(epoch)[-1, :CLASSES] for epoch in epochs], axis=1)
    items = [{"position": number, "values": encode(1.0 - values)} for number, values in enumerate(alpha)]
    return items, {"Classes": list(range(len(items)))}


def _instances(labels: Trajectory, epochs: Sequence[int]) -> tuple[list[Item], dict[str, list[int]]]:
    first, last = labels.block(0), labels.block(labels.epochs - 1)
    # The label of a run that diverged is NaN; it did not move, so far as one can tell.
    moved = np.nan_to_num(np.abs(last - first).sum(axis=1) / 2)
    chosen = {
        "Moved most": np.argsort(-moved, kind="stable")[:PER_GROUP].tolist(),
        f"Drawn with seed {_SEED}": _draw(np.arange(len(moved))),
        "Most probable class changed": _draw(np.flatnonzero(first.argmax(axis=1) != last.argmax(axis=1))),
    }
    rows = list(dict.fromkeys(row for group in chosen.values() for row in group))
    highest = np.full((len(rows), labels.num_classes), -1.0)
    for epoch in range(labels.epochs):
        highest = np.fmax(highest, labels.block(epoch)[rows])
    classes = np.argsort(-highest, axis=1, kind="stable")[:, :TOP_CLASSES]
    # (instances, epochs, classes)
    values = np.stack([np.take_along_axis(labels.block(epoch)[rows], classes, axis=1) for epoch in epochs], axis=1)
    items = [
        {"position": int(labels.indices[row]), "classes": classes[place].tolist(), "values": encode(values[place])}
        for place, row in enumerate(rows)
    ]
    return items, {name: [rows.index(row) for row in group] for name, group in chosen.items()}


def _draw(rows: npt.NDArray[np.int64]) -> list[int]:
    # The stream of RandomState is frozen: another release of NumPy draws the same.
    return [int(row) for row in np.random.RandomState(_SEED).permutation(rows)[:PER_GROUP]]


def encode(values: npt.NDArray[np.float32]) -> str:
    """Return probabilities, row by row, as base64 of little-endian uint16 in 10,000ths; NaN is :data:`NOT_A_NUMBER`."""
    units = np.clip(np.nan_to_num(values.astype(np.float64)), 0.0, 1.0) * _UNIT
    stored = np.where(np.isfinite(values), units.round(), NOT_A_NUMBER)
    return base64.b64encode(stored.astype("<u2").tobytes()).decode("ascii")


def _add_pictures(items: list[Item], run: Run, labels: Trajectory, found: TrainingSet | None, images: dict[str, int]) -> list[str]:
    """Add to ``items`` what the dataset knows of them, and return the names of the classes; nothing where it is not on this machine.

    An item gets the place of its image among ``images``, which runs on one dataset share. An instance also gets the class that it was
    ``annotated`` as and its ``true`` one, a class the position of its ``example``, the first image of it that the run trained on.

    Raises:
        UserError: the noisy labels are others than the run's.
    """
    if found is None:
        return []
    positions, true = labels.indices.tolist(), found.labels[labels.indices].tolist()
    observed = [] if labels.kind == "class" else annotated_classes(run, found, labels.indices).tolist()
    for item in items:
        image = item["position"]
        if labels.kind == "instance":
            row = positions.index(image)
            item |= {"annotated": observed[row], "true": true[row]}
        elif image in true:
            image = item["example"] = positions[true.index(image)]
        else:
            continue
        item["image"] = images.setdefault(data_uri(png(found.image(image)), "image/png"), len(images))
    return [name_of(found, number) for number in range(labels.num_classes)]


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """Return an image (H, W) or (H, W, 3) of uint8 as PNG."""
    content = io.BytesIO()
    Image.fromarray(image).save(content, "png", optimize=True)
    return content.getvalue()
