r"""How many wrong labels of CIFAR-10's own test set an audit finds, by the people who looked at its images.

The test images are trained on; 1,000 images of the published training set are verified ones, and 2,000 more are tested on:

    python examples/test_set_errors.py make data
    python -m repro method=instance_labels method.learning_rate=75 method.initial_target_probability=0.9 \
        method.curriculum=one_minus_entropy dataset=image_folder dataset.folder=cifar10_test dataset.labels=labels.csv dataset.side=16 \
        split=verified model=small_cnn model.width=32 optim=small_cnn_momentum augment=crop_flip augment.padding=0 \
        meta.batch_size=100 seed=0
    python -m analysis audit runs/instance_labels-image_folder-* --out audit
    python examples/test_set_errors.py judge audit/doubted_labels.csv cifar10_mturk.json

``cifar10_mturk.json`` is the published list of Northcutt et al. (NeurIPS 2021; repository cleanlab/label-errors): 275 test images whose
labels confident learning doubted, and what five people said of each. A label counts as wrong where less than three of them kept it.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from repro.config.registry import get

VERIFIED, TESTED = 100, 200  # of each class


def make(folder: Path) -> None:
    """Write the images, and ``labels.csv``, to ``cifar10_test`` below the folder in which CIFAR-10 lies."""
    choice = get("dataset", "cifar10")
    raw, out = choice.build(choice.config(name="cifar10"), folder), folder / "cifar10_test"
    out.mkdir()
    kept = np.concatenate([np.flatnonzero(raw.train.labels == label)[: VERIFIED + TESTED] for label in range(raw.num_classes)])
    verified = set(np.concatenate([np.flatnonzero(raw.train.labels == label)[:VERIFIED] for label in range(raw.num_classes)]).tolist())
    rows = []
    for name, images, positions in (("test", raw.test, range(len(raw.test.labels))), ("train", raw.train, kept.tolist())):
        for position in positions:
            file, is_verified = f"{name}{position:05d}.png", name == "train" and position in verified
            Image.fromarray(images.images[position].transpose(1, 2, 0)).save(out / file)
            split = "train" if name == "test" or is_verified else "test"
            rows.append([file, raw.class_names[images.labels[position]], split, str(is_verified).lower()])
    with (out / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "label", "split", "verified"], *rows])


def judge(doubted: Path, people: Path) -> None:
    """Print how many of the first images of the list have a label that people hold to be wrong."""
    wrong = {entry["id"] for entry in json.loads(people.read_text()) if entry["mturk"]["given"] < 3}
    with doubted.open(newline="") as file:
        order = [int(row["file"][4:9]) for row in csv.DictReader(file) if row["file"].startswith("test")]
    print(f"{len(wrong)} of {len(order)} labels are wrong: {100 * len(wrong) / len(order):.2f} of 100 at random")
    for count in (20, 50, 100, 200, 500, 1000):
        print(f"first {count}: {len(wrong & set(order[:count]))}")


if __name__ == "__main__":
    {"make": make, "judge": judge}[sys.argv[1]](*map(Path, sys.argv[2:]))
