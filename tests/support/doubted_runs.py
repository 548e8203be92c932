"""Fabricated runs with predictions of their images, right about some annotations and not about others."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from label_runs import FIELDS
from PIL import Image
from run_folders import change, done_run

#: What strangers call their classes.
NAMES = ("sea lion", "</script><img src=x onerror=window.broken=1>", 'a "b", c')
SIDE = 8


def doubted_run(
    folder: Path, indices: list[int], observed: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64], **more: Any
) -> None:
    """Make the folder of a finished run with ``predictions.npz``; ``more`` are arrays of that file, or settings, whose names have a dot."""
    own = probabilities[np.arange(len(observed)), observed]
    settings = {name.replace("__", "."): value for name, value in more.items() if "__" in name}
    arrays = {name: value for name, value in more.items() if "__" not in name}
    done_run(folder, fields=FIELDS | {"seed": 0} | settings)
    np.savez(
        folder / "predictions.npz",
        **{"indices": np.array(indices), "observed": observed, "probabilities": probabilities, "margins": own - 0.5} | arrays,
    )
    change(folder, "provenance.json", {"sha256": {"dataset": None}})


def folder_run(data: Path, runs: Path) -> Path:
    """Make 24 images of three classes below ``data``, of which images 3 and 7 are annotated wrongly, and the folder of a run on them.

    Image 0 is verified. The last six are the test set. The run doubts image 7 most, then 3.
    """
    (data / "mine").mkdir(parents=True)
    lines, right = ["file,label,split,verified"], np.arange(24) % 3
    observed = right.copy()
    observed[[3, 7]] = (right[[3, 7]] + 1) % 3
    for number in range(24):
        Image.new("RGB", (9, 7), (10 * number, 200, 10)).save(data / "mine" / f"{number}, a.png")
        name = NAMES[observed[number]].replace('"', '""')
        lines.append(f'"{number}, a.png","{name}",{"test" if number >= 18 else "train"},{"true" if number == 0 else ""}')
    (data / "mine" / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    order = [sorted(NAMES).index(name) for name in NAMES]
    probabilities = np.full((17, 3), 0.05)
    probabilities[np.arange(17), np.array(order)[right[1:18]]] = 0.9
    probabilities[6] = np.full(3, 0.01)
    probabilities[6, order[right[7]]] = 0.98
    clean = np.eye(3).repeat(20, axis=0) * 0.85 + 0.05
    settings = {"dataset__name": "image_folder", "dataset__folder": "mine", "dataset__labels": "labels.csv", "dataset__side": SIDE}
    doubted_run(
        runs / "instance_labels-image_folder-1",
        list(range(1, 18)),
        np.array(order)[observed[1:18]],
        probabilities,
        clean_probabilities=clean,
        clean_labels=np.arange(3).repeat(20),
        dataset__test_fraction=0.2,
        **settings,
    )
    return runs / "instance_labels-image_folder-1"
