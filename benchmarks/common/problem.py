"""What is measured: a network, a batch, a meta batch and labels to learn, of the shapes of a real run, with random pixels.

The time of a step does not depend on the pixels' values; recipes (learning rate, weight decay) are those of the run's own settings.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from repro.config import registry
from repro.config.compose import compose
from repro.config.schema import Config
from repro.engine.method import Context, Method
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch
from repro.randomness import Stream
from sweeps.plan.counting import count_step

#: Networks that can be measured, each on the images of the dataset it is used for.
DATASETS = {"digits_cnn": "digits"} | dict.fromkeys(("resnet18", "vgg16", "alexnet", "wrn_28_10", "resnet_cifar", "cnn_9"), "cifar100")

#: Of a network whose own recipe is Adam's: the look-ahead is a step of SGD.
_RECIPES = {"cnn_9": ["optim=standard"]}


@dataclass(frozen=True)
class Problem:
    """The inputs of one step and the settings of the run it stands for.

    Attributes:
        inputs: the training batch (B, C, H, W), float32.
        rows: its rows (B,) in the training set.
        labels: annotated classes (N,) of the whole training set.
    """

    config: Config
    inputs: Tensor
    rows: Tensor
    labels: Tensor
    meta: MetaBatch
    num_classes: int
    device: torch.device


def make_problem(model: str, *, device: torch.device, batch: int, meta_batch: int) -> Problem:
    """Return the problem of ``model`` with ``batch`` training and ``meta_batch`` meta images; the same numbers on every call."""
    dataset = DATASETS[model]
    settings = [f"model={model}", *_RECIPES.get(model, []), f"dataset={dataset}", "method=instance_labels", "split=clean_meta"]
    settings += [f"split.meta_size={meta_batch}", f"optim.batch_size={batch}", f"meta.batch_size={meta_batch}"]
    config = compose([*settings, "tracker=none", "seed=0"])
    size = registry.get("dataset", dataset).size
    assert size is not None
    shape, classes = size.image_shape, size.num_classes
    generator = torch.Generator().manual_seed(Stream(0, "benchmark").torch_seed())
    images = 8 * batch
    return Problem(
        config=config,
        inputs=torch.randn(batch, *shape, generator=generator).to(device),
        rows=torch.randperm(images, generator=generator)[:batch].clone().to(device),
        labels=torch.randint(0, classes, (images,), generator=generator).to(device),
        meta=MetaBatch(
            inputs=torch.randn(meta_batch, *shape, generator=generator).to(device),
            targets=torch.randint(0, classes, (meta_batch,), generator=generator).to(device),
        ),
        num_classes=classes,
        device=device,
    )


@dataclass(frozen=True)
class Learner:
    """Everything that one way of taking the step changes: its own network, optimiser and labels, at the same start for all."""

    model: nn.Module
    optimizer: SGD
    method: Method


def make_learner(problem: Problem, method: str) -> Learner:
    """Return a learner at the start of the run of ``problem``; ``method`` is ``instance_labels``, or ``one_hot`` without a meta step."""
    config = problem.config
    torch.manual_seed(Stream(config.seed, "init").torch_seed())
    image_shape = tuple(problem.inputs.shape[1:])
    model = registry.get("model", config.model.name).build(config.model, num_classes=problem.num_classes, image_shape=image_shape)
    model = model.to(problem.device).train()
    context = Context(num_classes=problem.num_classes, observed=problem.labels, device=problem.device, seed=config.seed)
    choice = registry.get("method", method)
    settings = config.method if config.method.name == method else choice.config()
    return Learner(model=model, optimizer=SGD(model, config.optim), method=choice.build(settings, context))


def step_flops(problem: Problem, *, learns: bool) -> float:
    """Return the FLOPs of our own step, two for each multiply-accumulate, as :mod:`sweeps.plan.counting` counts them."""
    settings = {key: value for key, value in vars(problem.config.model).items() if key != "name"}
    channels, height, width = problem.inputs.shape[1:]
    counted = count_step(
        problem.config.model.name,
        json.dumps(settings, sort_keys=True),
        (channels, height, width),
        problem.num_classes,
        batch=len(problem.rows),
        meta_batch=len(problem.meta.targets) if learns else 0,
    )
    return float(counted.flops)
