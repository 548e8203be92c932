"""What a run trains on: the sets of images with their labels, and how images become inputs."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import AugmentConfig
from repro.data.prepare import RunData, as_inputs, prepare
from repro.data.transform import Transform
from repro.errors import UserError
from repro.randomness import Stream

CPU = torch.device("cpu")
NOISE = ["noise=uniform", "noise.rate=0.4"]


def data(*overrides: str, seed: int = 0) -> RunData:
    return prepare(compose(["method=one_hot", "dataset=digits", "tracker=none", f"seed={seed}", *overrides]), CPU)


def test_the_training_part_is_noisy_and_nothing_else() -> None:
    run = data("noise=uniform", "noise.rate=1.0", "noise.include_true=false", "split.validation_size=60")
    choice = registry.get("dataset", "digits")
    raw = choice.build(choice.config(name="digits"), Path())
    assert torch.all(run.observed != run.true)
    assert run.effective_noise_rate == 1.0
    np.testing.assert_array_equal(run.true, raw.train.labels[run.train_indices])
    np.testing.assert_array_equal(run.train.images, raw.train.images[run.train_indices])
    assert torch.equal(run.train.labels, run.observed)
    assert (len(run.train), len(run.meta), len(run.validation), len(run.test)) == (1277, 100, 60, 360)
    # Each held-out image still has its own label: pairs of image and label are those of the published set.
    others = np.delete(np.arange(1437), run.train_indices)
    wanted = {(image.tobytes(), int(label)) for image, label in zip(raw.train.images[others], raw.train.labels[others], strict=True)}
    held_out = [pair for part in (run.meta, run.validation) for pair in zip(part.images, part.labels, strict=True)]
    assert {(image.numpy().tobytes(), int(label)) for image, label in held_out} == wanted
    np.testing.assert_array_equal(run.test.images, raw.test.images)
    np.testing.assert_array_equal(run.test.labels, raw.test.labels)


def test_sets_that_are_never_augmented_become_inputs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    run = data("split.validation_size=60")
    ready = as_inputs(run)
    for name in ("train", "meta", "validation", "test"):
        pixels, inputs = getattr(run, name), getattr(ready, name)
        assert torch.equal(inputs.images, run.transform(pixels.images, None))
        assert run.transform(inputs.images, None) is inputs.images
        assert inputs.labels is pixels.labels
    # Normalised by the dataset; the meta set's images are missing, hence not exactly 0 and 1.
    assert (float(ready.train.images.mean()), float(ready.train.images.std())) == pytest.approx((0, 1), abs=0.02)
    shared = as_inputs(data())
    assert shared.validation is shared.meta
    assert as_inputs(data("split=full")).meta is None
    augmented = data("augment.padding=1")
    assert as_inputs(augmented).test is augmented.test
    monkeypatch.setattr("repro.data.prepare.MAX_INPUTS", 360 * 64 - 1)
    assert as_inputs(run).test is run.test


def test_hashes_name_what_changed_and_the_noise_follows_its_own_seed_before_the_run_s() -> None:
    def changed(*overrides: str, seed: int = 0) -> set[str]:
        hashes = data(*NOISE, *overrides, seed=seed).hashes
        return {name for name, value in hashes.items() if value != base[name]}

    base = data(*NOISE).hashes
    assert set(base) == {"dataset", "split", "noise"}
    assert changed() == changed("noise.seed=0") == changed("noise.seed=0", "split.seed=0", seed=1) == set()
    assert changed("noise.seed=7") == changed("split.seed=0", seed=1) == {"noise"}
    assert changed("split.seed=7") == {"split", "noise"}


MEAN, STD, SHAPE = (0.2, 0.4, 0.6), (0.3, 0.5, 0.7), (3, 6, 8)


def transform(shape: tuple[int, int, int] = SHAPE, device: torch.device = CPU, **config: Any) -> Transform:
    return Transform(AugmentConfig(**config), MEAN[: shape[0]], STD[: shape[0]], shape, device)


def pixels(count: int) -> Tensor:
    return torch.from_numpy(Stream(0, "pixels").integers(count * 144, 256).astype(np.uint8)).view(count, *SHAPE)


def reference(image: np.ndarray, top: int, left: int, mirrored: int, padding: int, mode: str) -> np.ndarray:
    """Pad, crop, mirror and normalise one image, the way one would say it."""
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="constant" if mode == "zeros" else "reflect")
    crop = padded[:, top : top + 6, left : left + 8]
    return ((crop[:, :, ::-1] if mirrored else crop) / 255.0 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]


@pytest.mark.parametrize(("padding", "mode"), [(0, "zeros"), (5, "zeros"), (1, "reflect"), (5, "reflect")])
def test_it_is_the_reference_image_by_image(padding: int, mode: str) -> None:
    offsets = range(2 * padding + 1)
    every = list(itertools.product(offsets, offsets, (0, 1)))
    images, augment = pixels(len(every)), transform(padding=padding, padding_mode=mode, horizontal_flip=True)
    before, draws = images.clone(), torch.tensor(every, dtype=torch.uint8)
    inputs = augment(images, draws)
    assert torch.equal(images, before)
    assert inputs.dtype == torch.float32
    wanted = np.stack([reference(image, *numbers, padding, mode) for image, numbers in zip(images.numpy(), every, strict=True)])
    np.testing.assert_allclose(inputs.numpy(), wanted, atol=1e-5)
    # A batch of an epoch is augmented as in the whole epoch.
    some = torch.tensor([len(every) - 1, 0, 0])
    assert torch.equal(augment(images[some], draws[some]), inputs[some])
    compiled = torch.compile(augment.__call__, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images, draws), inputs)


def test_draws_cover_every_crop_and_both_sides_evenly_and_each_can_be_had_alone_or_none() -> None:
    draws = transform(padding=2, horizontal_flip=True).draw(Stream(0, "augment"), 5000)
    assert draws.dtype == torch.uint8
    for column, high in ((0, 5), (1, 5), (2, 2)):
        np.testing.assert_allclose(torch.bincount(draws[:, column].to(torch.int64), minlength=high) / 5000, 1 / high, atol=0.03)
    assert len(torch.unique(draws, dim=0)) == 5 * 5 * 2
    assert transform().draw(Stream(0, "augment"), 10) is None
    assert not transform(padding=2).draw(Stream(0, "augment"), 100)[:, 2].any()
    assert not transform(horizontal_flip=True).draw(Stream(0, "augment"), 100)[:, :2].any()


@pytest.mark.parametrize(
    ("shape", "config", "words"),
    [
        ((1, 8, 8), {"normalization": "cifar10"}, r"augment.normalization=cifar10.*3 channels.*1\. Use augment.normalization=dataset"),
        (SHAPE, {"padding": 6, "padding_mode": "reflect"}, r"augment.padding=6.*reflect.*below the 6"),
    ],
)
def test_settings_that_do_not_fit_the_images_are_named(shape: tuple[int, int, int], config: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        transform(shape, **config)
