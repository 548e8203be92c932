"""Training images and classes of a run's dataset: what a figure shows beside the labels.

A run folder holds no image and no class name, so they are read from the dataset itself by the code that training reads it with,
which needs neither PyTorch nor the network. What is read is checked against the sha256 in the run's provenance.json.

The files of CIFAR may be absent where a figure is made. Then :meth:`TrainingSets.of` returns ``None``, and the figure
shows grey placeholders; its bytes therefore depend on whether the dataset is there.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from analysis.reading.runs import Run
from repro.config import registry
from repro.errors import UserError
from repro.randomness import sha256_of

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TrainingSet:
    """The published training set, or the part of it that a run was cut out of.

    Attributes:
        images: uint8 (N, C, H, W).
        labels: the true classes (N,).
        sha256: of the training and test sets, as provenance.json has it.
    """

    dataset: str
    images: npt.NDArray[np.uint8]
    labels: Classes
    class_names: tuple[str, ...]
    sha256: str

    def image(self, position: int) -> npt.NDArray[np.uint8]:
        """Return one image as (H, W) when gray, else as (H, W, 3)."""
        image: npt.NDArray[np.uint8] = self.images[position].transpose(1, 2, 0)
        return image[:, :, 0] if image.shape[2] == 1 else image


class TrainingSets:
    """The training sets of the runs of a figure, each read once."""

    def __init__(self, *, published: bool = True) -> None:
        """Look for datasets in ``$REPRO_DATA``, else in ``data``, as training does; without ``published`` those with files are nowhere."""
        self._published = published
        self._folder = Path(os.environ.get("REPRO_DATA", "data"))
        self._known: dict[str, TrainingSet | None] = {}
        #: Names of datasets that were asked for and are not on this machine.
        self.absent: set[str] = set()

    def key(self, run: Run) -> str:
        """Return what tells the datasets of runs apart.

        Raises:
            UserError: its settings are not those of this code.
        """
        return repr(_choice(run, "dataset")[1])

    def of(self, run: Run) -> TrainingSet | None:
        """Return what ``run`` was cut out of; ``None`` where the dataset's files are not on this machine.

        Raises:
            UserError: its settings are not those of this code; a file of the dataset is damaged; the dataset is another than the run's.
        """
        found = self._read(run)
        wanted = (run.provenance.get("sha256") or {}).get("dataset")
        if found is not None and wanted not in (None, found.sha256):
            raise UserError(
                f"{run.place}, provenance.json: the run trained on other images of {found.dataset} than are here "
                f"(sha256 {str(wanted)[:12]}, here {found.sha256[:12]}). Use the versions of packages and the files that it was made with."
            )
        return found

    def class_name(self, run: Run, number: int) -> str:
        """Return the name of a class of the run's dataset, ``sea lion``; ``class 7`` where it has none, or is not known."""
        return name_of(self.class_names(run), number)

    def class_names(self, run: Run) -> tuple[str, ...]:
        """Return the names of all classes of the run's dataset, from its evidence, else the dataset; none where they are not known."""
        if "class_names" in run.dataset:
            return tuple(run.dataset["class_names"])
        found = self._read(run)
        return () if found is None else found.class_names

    def _read(self, run: Run) -> TrainingSet | None:
        choice, settings = _choice(run, "dataset")
        key = repr(settings)
        if key not in self._known:
            self._known[key] = self._load(choice, settings)
            if self._known[key] is None:
                self.absent.add(choice.name)
        return self._known[key]

    def _load(self, choice: registry.Choice, settings: Any) -> TrainingSet | None:
        published = getattr(sys.modules[choice.build.__module__], "FILES", None)
        # A missing file is no mistake here, unlike in training; a damaged one is.
        if published is not None and not (self._published and all(published.path(self._folder, name) for name in published.md5)):
            return None
        raw = choice.build(settings, self._folder)
        sha256 = sha256_of(raw.train.images, raw.train.labels, raw.test.images, raw.test.labels)
        return TrainingSet(choice.name, raw.train.images, raw.train.labels, tuple(raw.class_names), sha256)


def name_of(names: Sequence[str], number: int) -> str:
    """Return the name of a class, for readers: ``sea lion``, or ``class 7`` where the dataset calls it by its number or is not known."""
    if number >= len(names) or names[number] == str(number):
        return f"class {number}"
    return names[number].replace("_", " ")


def annotated_classes(run: Run, training_set: TrainingSet, indices: npt.NDArray[np.int64]) -> Classes:
    """Return the classes (N,) that the images at ``indices`` (N,) were annotated with in ``run``, label noise included.

    The noise is made again from the run's settings and seed, and checked against the sha256 in its provenance.json.

    Raises:
        UserError: what comes out is not what the run trained on; its settings cannot be read.
    """
    choice, settings = _choice(run, "noise")
    seed = int(run.fields["seed"]) if settings.seed is None else settings.seed
    if len(indices) and int(indices.max()) >= len(training_set.labels):
        raise UserError(f"{run.place}, labels: names image {indices.max()}, {training_set.dataset} has {len(training_set.labels)}.")
    observed: Classes = choice.build(settings, training_set.labels[indices], len(training_set.class_names), seed)
    wanted = (run.provenance.get("sha256") or {}).get("noise")
    if wanted not in (None, sha256_of(observed)):
        raise UserError(
            f"{run.place}, provenance.json: the noisy labels that this code makes from the run's settings are not those it trained on. "
            "Use the code that it was made with, or move the folder away and run it again."
        )
    return observed


def _choice(run: Run, group: str) -> tuple[registry.Choice, Any]:
    """Return what the run chose of ``group``, and its settings."""
    path, fields = f"{run.place}, identity.json", run.fields
    if f"{group}.name" not in fields:
        raise UserError(f"{path}: does not say which {group} the run has. Move the folder away and run it again.")
    choice = registry.get(group, str(fields[f"{group}.name"]))
    values = {key.partition(".")[2]: value for key, value in fields.items() if key.startswith(f"{group}.")}
    version = values.pop("version", choice.version)
    known = {field.name: field for field in dataclasses.fields(choice.config)}
    unknown = sorted(set(values) - set(known))
    if unknown or version != choice.version:
        found = f"{group}.{unknown[0]} is no setting of this code" if unknown else f"{group} {choice.name} of version {version}"
        raise UserError(f"{path}: {found}. Use the code that the run was made with, or move the folder away and run it again.")
    # A setting that the identity leaves out has its neutral value (repro.config.identity).
    neutral = {name: field.metadata["neutral"] for name, field in known.items() if "neutral" in field.metadata}
    return choice, choice.config(**(neutral | values))
