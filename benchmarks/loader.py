"""Batches from memory on the device against a torchvision DataLoader with the same augmentation, in images per second.

``python benchmarks/loader.py --device cpu``
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.arguments import count, run
from benchmarks.clock import Sample, in_turns, say, seconds_of
from benchmarks.page import Page, Table
from repro import registry
from repro.compose import compose
from repro.data.prepare import LabelledImages
from repro.data.transform import Transform
from repro.determinism import Stream, make_deterministic
from repro.errors import UserError
from repro.run import choose_device


@dataclass(frozen=True)
class Images:
    """The images that both ways start from, on the CPU: pixels (N, C, H, W) as uint8, classes (N,), and their mean and deviation."""

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str

    @classmethod
    def made(cls, shape: tuple[int, int, int], *, classes: int, count: int) -> Images:
        """Return random pixels."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)
        labels = torch.randint(0, classes, (count,), generator=generator)
        size = "x".join(map(str, shape))
        return cls(pixels, labels, mean=(0.5,) * shape[0], std=(0.25,) * shape[0], source=f"images of {size} random pixels")

    @classmethod
    def found(cls, dataset: str, data: Path, *, count: int) -> Images:
        """Return the first images of ``dataset`` if its files lie in the folder ``data``, random pixels of CIFAR's shape otherwise."""
        choice = registry.get("dataset", dataset)
        try:
            raw = choice.build(choice.config(name=dataset), data)
        except UserError:
            return cls.made((3, 32, 32), classes=100, count=count)
        pixels, labels = torch.from_numpy(raw.train.images[:count]), torch.from_numpy(raw.train.labels[:count])
        return cls(pixels, labels, mean=tuple(raw.mean), std=tuple(raw.std), source=f"images of {dataset}")


class TorchvisionImages(Dataset[tuple[Tensor, int, int]]):
    """CIFAR as torchvision gives it to a DataLoader: one PIL image at a time, cropped, mirrored and normalised by torchvision.

    An item is an image, its class, and its position.
    """

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        pixels = images.pixels.permute(0, 2, 3, 1)
        # PIL knows grey images without a dimension of channels only.
        self._pixels = (pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).contiguous().numpy()
        self._labels = images.labels.tolist()
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(images.pixels.shape[-1], padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(images.mean, images.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        from PIL import Image

        # torchvision.datasets.CIFAR100 makes an item in the same way; it would also need the files.
        return self._transform(Image.fromarray(self._pixels[index])), self._labels[index], index


#: Inputs (B, C, H, W), classes (B,) and positions (B,) of a batch, on the device.
LoadedBatch = tuple[Tensor, Tensor, Tensor]


def device_batches(images: Images, batch: int, device: torch.device, purpose: str = "train") -> Iterator[LoadedBatch]:
    """Yield augmented batches without end, as :class:`repro.loop.Training` makes them: an epoch's random numbers at once, on the device."""
    config = compose(["method=one_hot", "dataset=cifar100", "split=full", "augment=crop_flip", "tracker=none", "seed=0"])
    shape = (images.pixels.shape[1], images.pixels.shape[2], images.pixels.shape[3])
    transform = Transform(config.augment, images.mean, images.std, shape, device)
    train = LabelledImages(images.pixels.to(device), images.labels.to(device))
    for epoch in itertools.count():
        order = torch.from_numpy(Stream(0, "order", purpose, epoch).permutation(len(train))).to(device)
        draws = transform.draw(Stream(0, "augment", purpose, epoch), len(order))
        for start in range(0, len(order) - batch + 1, batch):
            visits = slice(start, start + batch)
            rows = order[visits]
            yield transform(train.images[rows], None if draws is None else draws[visits]), train.labels[rows], rows


def loader_batches(images: Images, batch: int, device: torch.device, workers: int) -> Iterator[LoadedBatch]:
    """Yield batches of a DataLoader without end, moved to the device."""
    pinned = device.type == "cuda"
    loader = DataLoader(
        TorchvisionImages(images),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
    )
    while True:
        for inputs, labels, rows in loader:
            yield inputs.to(device, non_blocking=pinned), labels.to(device, non_blocking=pinned), rows.to(device, non_blocking=pinned)


def measure(
    images: Images, *, batch: int, device: torch.device, workers: Sequence[int], repeats: int, batches: int
) -> dict[str, tuple[Sample, Sample]]:
    """Return, by way of loading, the images per second and the seconds to the first batch of an epoch's iterator.

    Each way makes ``batches`` batches a turn from one endless iterator; its first batch, which starts workers, is timed apart.
    """
    ways: dict[str, Callable[[], Iterator[LoadedBatch]]] = {"device-resident": partial(device_batches, images, batch, device)}
    for number in workers:
        ways[f"DataLoader, {number} workers"] = partial(loader_batches, images, batch, device, number)
    # One way after the other: workers that run ahead between their turns would take the cores from the others.
    return {name: _measure_way(name, make(), batch, device, repeats, batches) for name, make in ways.items()}


def _measure_way(
    name: str, iterator: Iterator[LoadedBatch], batch: int, device: torch.device, repeats: int, batches: int
) -> tuple[Sample, Sample]:
    first = Sample((seconds_of(lambda: next(iterator), device),))

    def turn() -> None:
        for _ in range(batches):
            next(iterator)

    # What a loader's queue held ahead.
    turn()
    seconds = in_turns({name: turn}, repeats=repeats, device=device)[name]
    return Sample(tuple(batches * batch / value for value in seconds.values)), first


def table(found: dict[str, tuple[Sample, Sample]]) -> Table:
    """Return the measurement as a table; the ratio is to the device-resident batches."""
    reference = found["device-resident"][0].median
    rows = []
    for name, (rate, first) in found.items():
        lower, upper = rate.quartiles
        rows.append([name, f"{rate.median:.0f}", f"{lower:.0f} - {upper:.0f}", f"{rate.median / reference:.3f}", f"{first.median:.2f}"])
    return Table(["batches", "images/s", "quartiles", "of device-resident", "first batch (s)"], rows)


NOTES = (
    "Both make augmented, normalised float32 batches on the device: random crop with a padding of 4, mirroring, normalisation. "
    "Device-resident: `repro.data.transform` on uint8 images that lie on the device, as a run does it. DataLoader: torchvision's "
    "transforms on PIL images in worker processes, copied to the device (from pinned memory on CUDA).",
    "The ways are measured one after the other, each from one endless iterator after its queue has been emptied once; `first batch` "
    "is the time from nothing to the first batch, which starts the workers. Nothing trains meanwhile: on a CPU, workers would take "
    "their cores from the training itself.",
)


def default_workers() -> list[int]:
    """Return the numbers of workers to try: 0, 2, and doubled up to the cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [0, 2, *(number for number in (4, 8, 16) if number <= cores)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dataset", default="cifar100", choices=["cifar10", "cifar100"], help="real images, if $REPRO_DATA has them")
    parser.add_argument("--images", type=count, default=10000, help="training images (default 10000)")
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--batches", type=count, default=50, help="batches in a turn (default 50)")
    parser.add_argument("--workers", type=lambda text: [int(part) for part in text.split(",")], default=default_workers())
    parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--threads", type=count)
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    options = parser.parse_args(arguments)
    if options.batch > options.images:
        parser.error(f"--batch {options.batch}: must be at most --images {options.images}")
    device = choose_device(options.device)
    make_deterministic(threads=options.threads, allow_tf32=False)
    images = Images.found(options.dataset, Path(os.environ.get("REPRO_DATA", "data")).expanduser(), count=options.images)
    say(f"{len(images.labels)} {images.source}")
    found = measure(images, batch=options.batch, device=device, workers=options.workers, repeats=options.repeats, batches=options.batches)
    shown = table(found)
    print(shown)
    if options.page:
        sizes = f"{len(images.labels)} {images.source}, batches of {options.batch}, {options.repeats} turns of {options.batches} batches."
        say(f"written: {Page('loader', 'Batches on the device and from a DataLoader', [shown], [sizes, *NOTES]).write(device)}")


if __name__ == "__main__":
    run(main)
