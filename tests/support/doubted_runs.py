"""Fabricated runs with predictions of their images, right about some annotations and not about others."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from label_runs import FIELDS
from PIL import Image
from run_folders import done_run
from sealed import seal

from repro.config.registry import get
from repro.data.types import RawDataset

#: What strangers call their classes, in alphabetical order.
NAMES = ("</script><img src=x onerror=window.broken=1>", 'a "b", c', "sea lion")


def doubted_run(folder: Path, indices: Any, observed: Any, probabilities: Any, settings: dict[str, Any], **more: Any) -> Path:
    """Make the folder of a finished run with ``predictions.npz``, in which ``more`` are arrays."""
    done_run(folder, fields=FIELDS | settings)
    margins = np.take_along_axis(probabilities, observed[:, None], axis=1)[:, 0]
    np.savez(folder / "predictions.npz", indices=indices, observed=observed, probabilities=probabilities, margins=margins, **more)
    seal(folder)
    return folder


def folder_run(data: Path) -> Path:
    """Make 24 images of three classes below ``data``, images 3 and 7 annotated wrongly, and a run there that doubts 7 most, then 3.

    Image 0 is verified, and the last six are the test set.
    """
    (data / "mine").mkdir(parents=True)
    files, right = [f"{number}, a.png" for number in range(24)], np.arange(24) % 3
    for number, file in enumerate(files):
        Image.new("L", (9, 7), 10 * number).save(data / "mine" / file)
    observed = np.where(np.isin(np.arange(24), [3, 7]), (right + 1) % 3, right)
    columns = {"file": files, "label": np.array(NAMES)[observed], "split": ["train"] * 18 + ["test"] * 6, "verified": ["yes"] + [""] * 23}
    pd.DataFrame(columns).to_csv(data / "mine" / "labels.csv", index=False)
    probabilities = np.eye(3)[right[1:18]] * 0.85 + 0.05
    probabilities[6] = np.eye(3)[right[7]] * 0.97 + 0.01
    clean = {"clean_probabilities": np.eye(3).repeat(20, axis=0) * 0.85 + 0.05, "clean_labels": np.arange(3).repeat(20)}
    settings = {"dataset.name": "image_folder", "dataset.folder": "mine", "dataset.labels": "labels.csv", "dataset.side": 8}
    return doubted_run(
        data / "runs" / "of_a_folder", np.arange(1, 18), observed[1:18], probabilities, settings | {"dataset.test_fraction": 0.2}, **clean
    )


def read_back(data: Path, labels: str) -> RawDataset:
    """Return the images of :func:`folder_run` as another CSV has them."""
    choice = get("dataset", "image_folder")
    return choice.build(choice.config(name="image_folder", folder="mine", labels=labels, side=8), data)
