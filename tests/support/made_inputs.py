"""What methods are given: contexts, batches, and finished runs made by hand, with trajectories and weights that are known."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from made_models import build_model
from safetensors.torch import save_file
from sealed import seal
from torch import Tensor

from repro.config import registry
from repro.config.schema import OptimConfig
from repro.data.prepare import LabelledImages, RunData
from repro.engine.method import Batch, Context, Method, Visit
from repro.files import write_json
from repro.randomness import Stream
from repro.runs.inputs import InputRun, Inputs

NUM_CLASSES, NUM_INSTANCES, EPOCHS, BATCH_SIZE = 5, 40, 3, 8
INITIAL = 0.9


def finished_run(folder: Path, **fields: Any) -> InputRun:
    """Return the run in ``folder`` as one that is done, with what a reader looks at in its identity."""
    seal(folder)
    known = {"seed": 7, "method.initial_target_probability": INITIAL, "dataset.name": "digits", "augment.normalization": "dataset"}
    return InputRun(folder.name, folder, known | fields)


def label_run(folder: Path, kind: str, values: npt.NDArray[np.float32], indices: list[int]) -> InputRun:
    """Write ``values`` (epochs, rows, K) as the trajectory of a run."""
    dtype, labels = np.dtype("<f2" if kind == "instance" else "<f4"), folder / "labels"
    labels.mkdir(parents=True)
    values.astype(dtype).tofile(labels / "values")
    np.array(indices, "<i8").tofile(labels / "indices")
    layout = {"schema": 2, "kind": kind, "file": "values", "dtype": dtype.str, "when": "after", "shape": list(values.shape)}
    write_json(labels / "layout.json", layout | {"indices": "indices"})
    return finished_run(folder)


def fold_inputs(tmp_path: Path, kind: str, num_folds: int = 5) -> tuple[Inputs, list[npt.NDArray[np.float32]]]:
    """Return the inputs of ``num_folds`` runs, fold f without the instances i with i % num_folds == f, and their values."""
    runs, values = [], []
    for fold in range(num_folds):
        indices = [index for index in range(NUM_INSTANCES) if index % num_folds != fold]
        random = np.random.default_rng(fold)
        if kind == "instance":  # distributions that are exact in float16
            drawn = random.dirichlet(np.ones(NUM_CLASSES), (EPOCHS, len(indices))).astype(np.float16)
        else:
            drawn = random.random((EPOCHS, -(-len(indices) // BATCH_SIZE), NUM_CLASSES))
        values.append(drawn.astype(np.float32))
        runs.append(label_run(tmp_path / f"{kind}_labels-digits-{fold}", kind, values[-1], indices))
    return Inputs(labels=tuple(runs)), values


def made_data(normalization: str = "dataset") -> RunData:
    """Return images of noise with the parts of :class:`RunData` that a method looks at."""
    images = torch.randint(0, 256, (NUM_INSTANCES, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(NUM_INSTANCES) % NUM_CLASSES

    def transform(pixels: torch.Tensor, draws: None) -> torch.Tensor:
        return pixels.float() / 255.0

    transform.normalization = normalization
    transform.draw = lambda stream, count: None
    made = SimpleNamespace(
        train=LabelledImages(images, labels),
        train_indices=np.arange(NUM_INSTANCES),
        meta=LabelledImages(images[:20].flip(3), labels[:20]),
        image_shape=(1, 8, 8),
        transform=transform,
    )
    return cast(RunData, made)


def teacher_run(tmp_path: Path) -> InputRun:
    """Write the model of a finished run with random weights."""
    folder = tmp_path / "one_hot-digits-teacher"
    folder.mkdir(parents=True)
    save_file({name: tensor.contiguous() for name, tensor in make_network("teacher").state_dict().items()}, folder / "model.safetensors")
    return finished_run(folder, **{"model.name": "digits_cnn", "model.version": 1, "model.width": 4})


def make_network(name: str) -> torch.nn.Module:
    """Return a small network for the images of :func:`made_data`."""
    with torch.random.fork_rng():
        torch.manual_seed(Stream(0, "init", name).torch_seed())
        return build_model("digits_cnn", (1, 8, 8), NUM_CLASSES, width=4)


def make_context(inputs: Inputs | None = None, *, epochs: int = EPOCHS) -> Context:
    """Return what a method is given in a run over all the instances."""
    data = made_data()
    return Context(
        num_classes=NUM_CLASSES,
        observed=data.train.labels,
        device=torch.device("cpu"),
        seed=0,
        epochs=epochs,
        steps_per_epoch=NUM_INSTANCES // BATCH_SIZE,
        inputs=inputs or Inputs(),
        data=data,
        optim=OptimConfig(name="made", epochs=epochs, batch_size=BATCH_SIZE, learning_rate=0.1, weight_decay=1e-3, momentum=0.9),
        make_network=make_network,
        transition=0.6 * torch.eye(NUM_CLASSES) + 0.4 / NUM_CLASSES,
    )


def inputs_for(name: str, tmp_path: Path) -> Inputs:
    """Return the inputs that method ``name`` reads with its defaults."""
    choice = registry.get("method", name)
    reads = choice.build.reads_inputs(choice.config())
    labels = fold_inputs(tmp_path, "instance")[0].labels if "labels" in reads else ()
    return Inputs(labels, teacher_run(tmp_path) if "teacher" in reads else None)


def build_method(name: str, context: Context | None = None, **settings: Any) -> Any:
    """Return the method ``name`` with these settings."""
    choice = registry.get("method", name)
    return choice.build(choice.config(**settings), context or make_context())


def batch_at(
    method: Method, rows: Tensor, scores: Tensor | None = None, *, epoch: int = 0, step: int = 0, inputs: Tensor | None = None
) -> Batch:
    """Return the batch of the training images at ``rows`` (B,), with log f ``scores`` (B, K), and what ``method`` gives for the step."""
    observed = method.context.observed[rows]
    given = method.given(Visit(rows, observed, epoch, step))
    scores = torch.zeros(len(rows), method.context.num_classes) if scores is None else scores
    return Batch(rows=rows, observed=observed, log_probabilities=scores, inputs=inputs, given=given)
