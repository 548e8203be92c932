"""What a run trains on: the sets of images with their labels, and how images become inputs."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import AugmentConfig
from repro.data.prepare import RunData, as_inputs, prepare
from repro.data.transform import Transform
from repro.data.types import RawDataset
from repro.errors import UserError
from repro.randomness import Stream

CPU = torch.device("cpu")


def data(*overrides: str, seed: int = 0) -> RunData:
    return prepare(compose(["method=one_hot", "dataset=digits", "tracker=none", f"seed={seed}", *overrides]), CPU)


def digits() -> RawDataset:
    choice = registry.get("dataset", "digits")
    return choice.build(choice.config(name="digits"), Path())


def test_the_training_part_is_noisy_and_nothing_else() -> None:
    run = data("noise=uniform", "noise.rate=1.0", "noise.include_true=false", "split.validation_size=60")
    raw = digits()
    assert torch.all(run.observed != run.true)
    assert run.effective_noise_rate == 1.0
    np.testing.assert_array_equal(run.true, raw.train.labels[run.train_indices])
    np.testing.assert_array_equal(run.train.images, raw.train.images[run.train_indices])
    assert torch.equal(run.train.labels, run.observed)
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


def test_inputs_are_normalised_by_the_dataset() -> None:
    run = data()
    inputs = run.transform(run.train.images, None)
    # The meta set's images are missing from these, hence not exactly 0 and 1.
    assert (float(inputs.mean()), float(inputs.std())) == pytest.approx((0, 1), abs=0.02)
    assert (run.effective_noise_rate, set(run.hashes)) == (0.0, {"dataset", "split", "noise"})


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


MEAN, STD = (0.2, 0.4, 0.6), (0.3, 0.5, 0.7)
SHAPE = (3, 6, 8)


def transform(config: AugmentConfig, shape: tuple[int, int, int] = SHAPE, device: torch.device = CPU) -> Transform:
    return Transform(config, MEAN[: shape[0]], STD[: shape[0]], shape, device)


def pixels(count: int, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    return torch.from_numpy(Stream(0, "pixels").integers(count * int(np.prod(shape)), 256).astype(np.uint8)).view(count, *shape)


def reference(image: np.ndarray, top: int, left: int, mirrored: int, config: AugmentConfig) -> np.ndarray:
    """Pad, crop, mirror and normalise one image, the way one would say it."""
    _, height, width = image.shape
    around = ((0, 0), (config.padding, config.padding), (config.padding, config.padding))
    padded = np.pad(image, around, mode="constant" if config.padding_mode == "zeros" else "reflect")
    crop = padded[:, top : top + height, left : left + width]
    if mirrored:
        crop = crop[:, :, ::-1]
    mean, std = np.array(MEAN)[:, None, None], np.array(STD)[:, None, None]
    return (crop / 255.0 - mean) / std


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("flip", [False, True])
def test_it_is_the_reference_image_by_image(padding: int, mode: str, flip: bool) -> None:
    config = AugmentConfig(padding=padding, padding_mode=mode, horizontal_flip=flip)
    offsets = range(2 * padding + 1)
    every = list(itertools.product(offsets, offsets, (0, 1) if flip else (0,)))
    images = pixels(len(every))
    before = images.clone()
    found = transform(config)(images, torch.tensor(every, dtype=torch.uint8))
    assert torch.equal(images, before)
    wanted = np.stack([reference(image, *numbers, config) for image, numbers in zip(images.numpy(), every, strict=True)])
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)
    assert found.dtype == torch.float32


def test_padding_wider_than_the_image_is_black() -> None:
    config = AugmentConfig(padding=20)
    found = transform(config)(pixels(1), torch.tensor([[0, 0, 0]], dtype=torch.uint8))
    black = -torch.tensor(MEAN) / torch.tensor(STD)
    torch.testing.assert_close(found[0], black.view(3, 1, 1).expand(3, 6, 8))


def test_draws_cover_every_crop_and_both_sides_evenly() -> None:
    draws = transform(AugmentConfig(padding=2, horizontal_flip=True)).draw(Stream(0, "augment"), 5000)
    assert draws.dtype == torch.uint8
    for column, high in ((0, 5), (1, 5), (2, 2)):
        counts = torch.bincount(draws[:, column].to(torch.int64), minlength=high)
        assert len(counts) == high
        np.testing.assert_allclose(counts / 5000, 1 / high, atol=0.03)
    together = torch.unique(draws, dim=0)
    assert len(together) == 5 * 5 * 2


def test_each_augmentation_can_be_had_alone_or_none() -> None:
    assert transform(AugmentConfig()).draw(Stream(0, "augment"), 10) is None
    crop = transform(AugmentConfig(padding=2)).draw(Stream(0, "augment"), 100)
    assert not crop[:, 2].any()
    mirror = transform(AugmentConfig(horizontal_flip=True)).draw(Stream(0, "augment"), 100)
    assert not mirror[:, :2].any()
    assert mirror[:, 2].any()


def test_a_batch_of_an_epoch_is_augmented_as_in_the_whole_epoch() -> None:
    augment = transform(AugmentConfig(padding=2, horizontal_flip=True))
    images, draws = pixels(50), augment.draw(Stream(0, "augment"), 50)
    assert len(draws) == 50
    whole = augment(images, draws)
    assert torch.equal(augment(images[10:20], draws[10:20]), whole[10:20])
    some = torch.tensor([49, 3, 3])
    assert torch.equal(augment(images[some], draws[some]), whole[some])


def test_it_never_waits_for_the_device() -> None:
    # Tensors of the meta device have no values: reading one, as a wait for the device would, raises.
    device = torch.device("meta")
    augment = transform(AugmentConfig(padding=2, padding_mode="zeros", horizontal_flip=True), device=device)
    found = augment(torch.empty(5, *SHAPE, dtype=torch.uint8, device=device), augment.draw(Stream(0, "augment"), 5))
    assert found.shape == (5, *SHAPE)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_it_is_one_graph_to_the_compiler(mode: str) -> None:
    augment = transform(AugmentConfig(padding=2, padding_mode=mode, horizontal_flip=True))
    images, draws = pixels(5), augment.draw(Stream(0, "augment"), 5)
    compiled = torch.compile(augment.__call__, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images, draws), augment(images, draws))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("dataset", MEAN, STD),
        ("cifar10", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
        ("meta_weight_net", (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)),
        ("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    ],
)
def test_statistics(name: str, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    found = transform(AugmentConfig(normalization=name))(pixels(2), None)
    wanted = (pixels(2).numpy() / 255.0 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-6)


def test_settings_that_do_not_fit_the_images_are_named() -> None:
    with pytest.raises(UserError, match=r"augment.normalization=cifar10.*3 channels.*1\. Use augment.normalization=dataset"):
        transform(AugmentConfig(normalization="cifar10"), shape=(1, 8, 8))
    with pytest.raises(UserError, match=r"augment.padding=6.*reflect.*below the 6"):
        transform(AugmentConfig(padding=6, padding_mode="reflect"))
    with pytest.raises(UserError, match=r"augment.padding=128.*at most 127"):
        transform(AugmentConfig(padding=128))
