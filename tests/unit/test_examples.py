"""The example of a test set that is audited: what it writes is read as images of one's own, and what it counts."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repro.config import registry
from repro.data.types import ImageSet, RawDataset

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "test_set_errors.py")


def test_a_test_set_becomes_training_images_beside_verified_ones_and_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # An image of each set is told by its color; those of the training set that are used come first of each class.
    def images(count: int, red: int) -> ImageSet:
        pixels = np.zeros((count, 3, 8, 8), np.uint8) + np.arange(count, dtype=np.uint8)[:, None, None, None] // 2
        pixels[:, 0] = red
        return ImageSet(pixels, np.arange(count) % 2)

    raw = RawDataset(images(610, 9), images(6, 1), ("cat", "dog"), (0.5,) * 3, (0.2,) * 3)
    monkeypatch.setitem(
        registry.choices("dataset"), "cifar10", replace(registry.get("dataset", "cifar10"), build=lambda config, folder: raw)
    )
    example = runpy.run_path(EXAMPLE)
    example["make"](tmp_path)
    choice = registry.get("dataset", "image_folder")
    config: Any = choice.config(name="image_folder", folder="cifar10_test", labels="labels.csv", side=8)
    # Two images have the same pixels, and no file may stand twice.
    for path in (tmp_path / "cifar10_test").glob("*.png"):
        path.write_bytes(path.read_bytes() + path.name.encode())
    made = choice.build(config, tmp_path)
    assert (len(made.train.labels), len(made.test.labels)) == (6 + 200, 400)
    assert made.train.images[:, 0, 0, 0].tolist() == [1] * 6 + [9] * 200
    assert made.verified is not None
    assert made.verified.tolist() == [False] * 6 + [True] * 200
    assert made.train.labels.tolist()[:6] == [0, 1] * 3

    (tmp_path / "doubted.csv").write_text(
        "file,annotated\n" + "".join(f"test{row:05d}.png,cat\ntrain{row:05d}.png,cat\n" for row in range(40))
    )
    people = [{"id": 25, "mturk": {"given": 2}}, {"id": 3, "mturk": {"given": 0}}, {"id": 4, "mturk": {"given": 3}}]
    (tmp_path / "people.json").write_text(json.dumps(people))
    example["judge"](tmp_path / "doubted.csv", tmp_path / "people.json")
    said = capsys.readouterr().out
    assert "2 of 40 labels are wrong: 5.00 of 100 at random\nfirst 20: 1\nfirst 50: 2\n" in said
