"""Images of one's own (not in the paper): a folder a class, or a CSV beside them, whose labels may be wrong.

A folder has ``CLASS/IMAGE``, or ``train/CLASS/IMAGE`` and ``test/CLASS/IMAGE``; sub-folders of a class belong to it. A CSV has the columns
``file`` (path from the folder) and ``label``, and may have ``split`` (``train`` or ``test``) and ``verified`` (``true`` where somebody has
checked the label); further columns are not looked at. Without a test set of its own, one is drawn class by class, the same for every seed.
"""

from __future__ import annotations

import csv
import logging
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pydantic

from repro.config import registry
from repro.config.fields import setting
from repro.config.schema import DatasetConfig
from repro.data.decoded_images import decoded, image_suffixes
from repro.data.splits import draw
from repro.data.types import ImageSet, RawDataset
from repro.errors import UserError, first_of
from repro.randomness import Stream

logger = logging.getLogger(__name__)


@dataclass
class ImageFolderConfig(DatasetConfig):
    """Where the images lie, what their labels are, and how they are resized."""

    folder: str = setting(help="the folder of the images: absolute, or below paths.data")
    labels: str | None = setting(None, help="CSV in that folder with columns file, label, split, verified; null: a folder a class")
    side: int = setting(32, help="rows and columns that every image is resized to, whatever its shape", at_least=4, at_most=1024)
    test_fraction: float = setting(0.2, help="share of the images that are drawn as test set, where none is given", above=0.0, below=1.0)


def _as_class(text: str) -> str:
    """Return a label as a class is called: any text, whose blanks and composed letters count the same however they are written."""
    label = unicodedata.normalize("NFC", " ".join(text.split()))
    if not label or not label.isprintable():
        raise ValueError(f"it is empty, or has characters that cannot be shown: {text!r}")
    return label


class Listed(pydantic.BaseModel):
    """An image as it is listed: its path below the folder, what is known of it, and where that is said."""

    file: str
    label: Annotated[str, pydantic.AfterValidator(_as_class)]
    split: Literal["train", "test"] = "train"
    verified: bool = False
    place: str


@registry.dataset(
    "image_folder",
    config=ImageFolderConfig,
    overrides={"model": "small_cnn", "optim": "small_cnn_momentum", "augment": "none", "split": "clean_meta_100"},
    values={"meta": {"batch_size": 50}},
)
def build(config: ImageFolderConfig, folder: Path) -> RawDataset:
    """Return the images (C, side, side) of the folder, in the order of their names or of the CSV; gray if all are gray.

    Raises:
        UserError: an image is missing, listed twice, the same as another or cannot be read; a label is missing or has one image only.
    """
    root = folder / Path(config.folder).expanduser()
    listed = _of_csv(root, root / config.labels) if config.labels else _of_folders(root)
    counts = Counter(image.label for image in listed)
    names = sorted(counts)
    if len(names) < 2:
        raise UserError(f"{root}: there must be images of two classes or more, and there are {len(names)}.")
    if alone := [image for image in listed if counts[image.label] == 1]:
        raise UserError(f"{alone[0].place}: {alone[0].label} is the label of one image only.")
    labels = np.array([names.index(image.label) for image in listed])
    test = np.array([image.split == "test" for image in listed])
    if not test.any():
        test[draw(labels, round(config.test_fraction * len(test)), Stream(0, "image_folder", "test"), stratified=True)] = True
    if untrained := [name for label, name in enumerate(names) if not (labels[~test] == label).any()]:
        raise UserError(f"{root}: no training image has the label {first_of(untrained)}.")
    # Training images first, so that both sets are parts of one array.
    order, count = np.argsort(test, kind="stable"), int((~test).sum())
    images = decoded(root, [listed[row].file for row in order], config.side, folder / ".decoded")
    return RawDataset(
        train=ImageSet(images.pixels[:count], labels[order[:count]]),
        test=ImageSet(images.pixels[count:], labels[order[count:]]),
        class_names=tuple(names),
        mean=images.mean,
        std=images.std,
        train_files=tuple(listed[row].file for row in order[:count]),
        test_files=tuple(listed[row].file for row in order[count:]),
        verified=np.array([listed[row].verified for row in order[:count]]),
    )


def _of_folders(root: Path) -> list[Listed]:
    """Return the images below ``root``, sorted by their paths."""
    if not root.is_dir():
        raise UserError(f"dataset.folder: {root} is no folder.")
    has_parts = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")} == {"train", "test"}
    listed, others = [], []
    for path in sorted(root.rglob("*")):
        file = path.relative_to(root)
        part, *below = file.parts if has_parts else ("train", *file.parts)
        if path.is_dir() or len(below) < 2 or any(name.startswith(".") for name in below):
            continue
        if path.suffix.lower() in image_suffixes():
            listed.append(_listed({"file": file.as_posix(), "label": below[0], "split": part}, str(path)))
        else:
            others.append(str(path))
    if others:
        logger.warning("by their names no images, and left out: %s.", first_of(others))
    return listed


def _of_csv(root: Path, path: Path) -> list[Listed]:
    """Return the images that a CSV lists, in its order."""
    listed: dict[str, Listed] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in ("file", "label") if name not in (reader.fieldnames or ())]:
                raise UserError(f"{path}:1: there is no column {first_of(missing)}. The columns are file, label, split, verified.")
            for row in reader:
                image = _of_line(root, row, f"{path}:{reader.line_num}")
                if image.file in listed:
                    raise UserError(f"{image.place}: {image.file} is listed already, at {listed[image.file].place}.")
                listed[image.file] = image
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"dataset.labels: {path} cannot be read: {error}.") from error
    return list(listed.values())


def _of_line(root: Path, row: dict[str | None, Any], place: str) -> Listed:
    if None in row or None in row.values():
        raise UserError(f"{place}: it has more or fewer fields than the first line. Put quotation marks around a text with commas.")
    # An empty field is one that is not there.
    image = _listed({name: text.strip() for name, text in row.items() if text.strip()}, place)
    if not (root / image.file).is_file():
        raise UserError(f"{place}: there is no file {root / image.file}.")
    return image


def _listed(said: dict[Any, str], place: str) -> Listed:
    try:
        return Listed.model_validate(said | {"place": place})
    except pydantic.ValidationError as error:
        raise UserError(f"{place}: {error.errors()[0]['loc'][0]}: {error.errors()[0]['msg']}.") from error
