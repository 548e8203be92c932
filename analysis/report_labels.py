"""The label browser's part of the page: which runs, and their labels as compact JSON that the page's own script reads."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from analysis.collect import Collected
from analysis.report_images import Pictures, TrainingSetOf, pictures
from analysis.report_trajectories import Floats, Labels, has_labels, read_labels, thinned, within
from analysis.runs import Run, read_run
from repro.errors import UserError

#: Stands for NaN among the values; these are 10,000ths.
NOT_A_NUMBER = 65535
_UNIT = 10_000


class Size(NamedTuple):
    """How much of each run goes into the page: instances of a group, and epochs (``None``: all)."""

    per_group: int
    epochs: int | None


#: From the whole selection to the smallest that still shows something; the page takes the first that fits.
SIZES = (Size(12, None), Size(6, None), Size(6, 80), Size(3, 80), Size(3, 40), Size(1, 40), Size(1, 20))


@dataclass
class Shown:
    """One run whose labels the page shows.

    Attributes:
        run: the run.
        labels: what was recorded and selected.
        pictures: what its dataset adds.
        page: name of the table or figure that needs it first.
        title: what it is, for the list of runs.
        places: every cell that it, or a run that reads it, stands in.
    """

    run: Run
    labels: Labels
    pictures: Pictures
    page: str
    title: str
    places: list[str]


@dataclass(frozen=True)
class Browser:
    """All runs whose labels the page shows, and what could not be read, in words."""

    shown: tuple[Shown, ...]
    problems: tuple[str, ...]

    def payload(self, size: Size, *, link: str) -> str:
        """Return the data as JSON that is safe inside a ``<script>`` element; ``link`` is how the page reaches the run folders."""
        images: dict[str, int] = {}
        runs = [_run(item, size, images, link) for item in self.shown]
        text = json.dumps({"unit": _UNIT, "nan": NOT_A_NUMBER, "runs": runs, "images": list(images)}, sort_keys=True, separators=(",", ":"))
        # Neither </script> nor <!-- may stand inside a script element; in JSON these signs stand in strings only.
        return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def browse(pages: Mapping[str, Sequence[Collected]], runs: Path, training_set_of: TrainingSetOf | None) -> Browser:
    """Return what the label browser shows of the cells of each page: of a cell the first finished repeat, if it has recorded labels.

    A final run records none, as it learns none; there the first of the runs whose labels it reads is shown.
    """
    found: dict[str, Shown] = {}
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
                title += f" (labels from {_origin(run)})"
            if run.run_id not in found:
                try:
                    labels = read_labels(run.folder)
                except UserError as error:
                    note(run, error)
                    continue
                known = Pictures()
                try:
                    known = pictures(run, labels, training_set_of)
                except UserError as error:
                    note(run, error)
                found[run.run_id] = Shown(run, labels, known, page, title, [])
            found[run.run_id].places.append(f"{page}: {title}")
    return Browser(tuple(found.values()), tuple(problems))


def _recorded(run: Run, runs: Path) -> Run | None:
    """Return ``run`` or the first of the runs that it reads, whichever has recorded labels."""
    if has_labels(run.folder):
        return run
    names = run.fields.get("inputs.labels") or ()
    return next((read for name in names if (read := read_run(runs / str(name))).done and has_labels(read.folder)), None)


def _origin(run: Run) -> str:
    fold = run.fields.get("split.fold")
    return "a run" if fold is None else f"fold {fold}"


def _run(shown: Shown, size: Size, images: dict[str, int], link: str) -> dict[str, Any]:
    labels = shown.labels
    epochs = thinned(labels.epochs, size.epochs)
    groups = within(labels.groups, size.per_group) if labels.kind == "instance" else within(labels.groups, len(labels.positions))
    kept = sorted({index for group in groups.values() for index in group})
    place = {index: number for number, index in enumerate(kept)}
    return {
        "id": shown.run.run_id,
        "link": f"{link}/{quote(shown.run.run_id)}/",
        "page": shown.page,
        "title": shown.title,
        "places": shown.places,
        "kind": labels.kind,
        "dataset": str(shown.run.fields.get("dataset.name", "unknown dataset")),
        "names": shown.pictures.class_names,
        "when": labels.when,
        "num_classes": labels.num_classes,
        "planned": labels.planned,
        "epochs": [epoch + 1 for epoch in epochs],
        "groups": [{"name": name, "items": [place[index] for index in group]} for name, group in groups.items()],
        "items": [
            {
                "position": labels.positions[index],
                "classes": labels.classes[index] if labels.classes else [],
                "values": encode(labels.values[index][epochs]),
                **_picture(shown, labels.positions[index], images),
            }
            for index in kept
        ],
    }


def _picture(shown: Shown, position: int, images: dict[str, int]) -> dict[str, int]:
    """Return what is known of an instance or a class beside its label; only what is known has a key."""
    known = shown.pictures
    found = {"annotated": known.annotated.get(position), "true": known.true.get(position)}
    if shown.labels.kind == "class":
        found = {"example": known.examples.get(position)}
    uri = known.uris.get(known.examples.get(position, -1) if shown.labels.kind == "class" else position)
    if uri is not None:
        # Runs on one dataset share many images.
        found["image"] = images.setdefault(uri, len(images))
    return {key: value for key, value in found.items() if value is not None}


def encode(values: Floats) -> str:
    """Return probabilities, row by row, as base64 of little-endian uint16 in 10,000ths; NaN is :data:`NOT_A_NUMBER`."""
    units = np.clip(np.nan_to_num(values.astype(np.float64)), 0.0, 1.0) * _UNIT
    stored = np.where(np.isfinite(values), units.round(), NOT_A_NUMBER)
    return base64.b64encode(stored.astype("<u2").tobytes()).decode("ascii")
