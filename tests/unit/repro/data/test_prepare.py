from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from repro.config import registry
from repro.config.compose import compose
from repro.data.prepare import RunData, as_inputs, prepare
from repro.data.types import RawDataset

CPU = torch.device("cpu")


def data(*overrides: str, seed: int = 0) -> RunData:
    return prepare(compose(["method=one_hot", "dataset=digits", "tracker=none", f"seed={seed}", *overrides]), CPU)


def digits() -> RawDataset:
    choice = registry.get("dataset", "digits")
    raw: RawDataset = choice.build(choice.config(name="digits"), Path())
    return raw


def test_the_training_part_is_noisy_and_nothing_else() -> None:
    run = data("noise=uniform", "noise.rate=1.0", "noise.include_true=false", "split.validation_size=60")
    raw = digits()
    assert torch.all(run.observed != run.true)
    assert run.effective_noise_rate == 1.0
    np.testing.assert_array_equal(run.true, raw.train.labels[run.train_indices])
    np.testing.assert_array_equal(run.train.images, raw.train.images[run.train_indices])
    assert torch.equal(run.train.labels, run.observed)
    assert run.meta is not None
    assert run.validation is not None
    assert (len(run.train), len(run.meta), len(run.validation), len(run.test)) == (1277, 100, 60, 360)
    others = np.delete(np.arange(1437), run.train_indices)
    # Each held-out image still has its own label: pairs of image and label are those of the published set.
    held_out = {
        (*image.ravel().tolist(), int(label)) for image, label in zip(raw.train.images[others], raw.train.labels[others], strict=True)
    }
    found = [
        (*image.flatten().tolist(), int(label))
        for part in (run.meta, run.validation)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert set(found) == held_out
    np.testing.assert_array_equal(run.test.images, raw.test.images)
    np.testing.assert_array_equal(run.test.labels, raw.test.labels)


def test_types_and_facts() -> None:
    run = data()
    for part in (run.train, run.meta, run.test):
        assert part is not None
        assert part.images.dtype == torch.uint8
        assert part.labels.dtype == torch.int64
        assert len(part) == len(part.images)
    assert run.num_classes == 10
    assert run.image_shape == (1, 8, 8)
    assert len(run.class_names) == 10
    assert run.effective_noise_rate == 0.0
    assert run.train_indices.dtype == np.int64
    assert set(run.hashes) == {"dataset", "split", "noise"}
    inputs = run.transform(run.train.images, None)
    # The meta set's images are missing from these, hence not exactly 0 and 1.
    assert float(inputs.mean()) == pytest.approx(0, abs=0.02)
    assert float(inputs.std()) == pytest.approx(1, abs=0.02)


def test_sets_that_are_never_augmented_become_inputs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = data("split.validation_size=60")
    ready = as_inputs(run)
    for name in ("train", "meta", "validation", "test"):
        pixels, inputs = getattr(run, name), getattr(ready, name)
        assert torch.equal(inputs.images, run.transform(pixels.images, None))
        assert run.transform(inputs.images, None) is inputs.images
        assert inputs.labels is pixels.labels
    shared = as_inputs(data())
    assert shared.validation is shared.meta
    assert as_inputs(data("split=full")).meta is None
    augmented = data("augment.padding=1")
    assert as_inputs(augmented).test is augmented.test
    monkeypatch.setattr("repro.data.prepare.MAX_INPUTS", 360 * 64 - 1)
    ready = as_inputs(run)
    assert ready.test is run.test
    assert ready.meta is not run.meta


def test_hashes_name_what_changed() -> None:
    noise = ["noise=uniform", "noise.rate=0.4"]
    base, other_noise, other_split = data(*noise), data(*noise, "noise.seed=7"), data(*noise, "split.seed=7")
    assert base.hashes == data(*noise).hashes
    assert {name for name in base.hashes if base.hashes[name] != other_noise.hashes[name]} == {"noise"}
    assert {name for name in base.hashes if base.hashes[name] != other_split.hashes[name]} == {"split", "noise"}
    assert data(*noise, "noise.seed=7", seed=1).hashes["noise"] != base.hashes["noise"]


def test_the_noise_follows_its_own_seed_before_the_run_s() -> None:
    fixed = ["noise=uniform", "noise.rate=0.4", "split.seed=0"]
    assert torch.equal(data(*fixed, "noise.seed=7", seed=0).observed, data(*fixed, "noise.seed=7", seed=1).observed)
    assert not torch.equal(data(*fixed, seed=0).observed, data(*fixed, seed=1).observed)
    assert torch.equal(data(*fixed, "noise.seed=1", seed=0).observed, data(*fixed, seed=1).observed)


@pytest.mark.parametrize(
    ("dataset", "model", "augment"),
    [
        ("digits", "digits_cnn", "none"),
        ("cifar10", "resnet18", "crop_flip"),
        ("cifar100", "resnet18", "crop_flip"),
    ],
)
def test_a_dataset_brings_its_model_and_augmentation(dataset: str, model: str, augment: str) -> None:
    config = compose(["method=one_hot", f"dataset={dataset}", "seed=0"])
    assert (config.model.name, config.augment.name) == (model, augment)
    assert config.meta.batch_size == (100 if dataset == "digits" else 256)
    assert config.split.meta_size == (100 if dataset == "digits" else 1000)
