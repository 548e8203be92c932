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
from repro.labels.recorder import Layout
from repro.randomness import Stream
from repro.runs.inputs import InputRun, Inputs

NUM_CLASSES, NUM_INSTANCES, EPOCHS, BATCH_SIZE = 5, 40, 3, 8
INITIAL = 0.9


def distributions(*shape: int, seed: int) -> npt.NDArray[np.float32]:
    """Return random distributions over the last axis, exact in float16."""
    raw = np.random.default_rng(seed).dirichlet(np.ones(shape[-1]), shape[:-1])
    return raw.astype(np.float16).astype(np.float32)


def write_trajectory(folder: Path, kind: str, values: npt.NDArray[np.float32], indices: list[int], when: str = "after") -> None:
    """Write ``values`` (epochs, rows, K) as the trajectory of a run."""
    made = Layout(kind, *values.shape)
    name, dtype = made.file_name, made.dtype
    folder.mkdir(parents=True)
    (folder / name).write_bytes(values.astype(dtype).tobytes())
    (folder / "indices.i64").write_bytes(np.array(indices, "<i8").tobytes())
    layout = {"schema": 1, "kind": kind, "file": name, "dtype": dtype.str, "when": when, "shape": list(values.shape)}
    write_json(folder / "layout.json", layout | {"indices": "indices.i64", "num_instances": len(indices)})


def fields(seed: int = 0, **more: Any) -> dict[str, Any]:
    """Return what a reader looks at in the identity of an input."""
    known = {"seed": seed, "optim.batch_size": BATCH_SIZE, "method.initial_target_probability": INITIAL, "dataset.name": "digits"}
    return known | {"augment.normalization": "dataset", **more}


def fold_inputs(tmp_path: Path, kind: str, num_folds: int = 5) -> tuple[Inputs, list[npt.NDArray[np.float32]]]:
    """Return the inputs of ``num_folds`` runs, fold f without the instances i with i % num_folds == f, and their values."""
    runs, values = [], []
    for fold in range(num_folds):
        indices = [index for index in range(NUM_INSTANCES) if index % num_folds != fold]
        if kind == "instance":
            own = distributions(EPOCHS, len(indices), NUM_CLASSES, seed=fold)
        else:
            steps = -(-len(indices) // BATCH_SIZE)
            own = np.random.default_rng(fold).random((EPOCHS, steps, NUM_CLASSES)).astype(np.float32)
        name = f"{kind}_labels-digits-{fold}"
        write_trajectory(tmp_path / name / "labels", kind, own, indices)
        seal(tmp_path / name)
        runs.append(InputRun(name, tmp_path / name, fields(seed=7)))
        values.append(own)
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


def write_teacher(tmp_path: Path, normalization: str = "dataset") -> InputRun:
    """Write the model of a finished run with random weights."""
    folder = tmp_path / "one_hot-digits-teacher"
    folder.mkdir(parents=True)
    torch.manual_seed(3)
    model = build_model("digits_cnn", (1, 8, 8), NUM_CLASSES, width=4)
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    known = fields(**{"model.name": "digits_cnn", "model.version": 1, "model.width": 4, "augment.normalization": normalization})
    seal(folder)
    return InputRun(folder.name, folder, known)


def make_context(inputs: Inputs | None = None, *, epochs: int = EPOCHS, batch_size: int = BATCH_SIZE, seed: int = 0) -> Context:
    """Return what a method is given in a run over all the instances."""
    data = made_data()
    return Context(
        num_classes=NUM_CLASSES,
        observed=data.train.labels,
        device=torch.device("cpu"),
        seed=seed,
        epochs=epochs,
        steps_per_epoch=-(-NUM_INSTANCES // batch_size),
        inputs=inputs or Inputs(),
        data=data,
        optim=OptimConfig(name="made", epochs=epochs, batch_size=batch_size, learning_rate=0.1, weight_decay=1e-3, momentum=0.9),
        make_network=make_network,
        transition=0.6 * torch.eye(NUM_CLASSES) + 0.4 / NUM_CLASSES,
    )


def make_network(name: str) -> torch.nn.Module:
    """Return a small network for the images of :func:`made_data`."""
    with torch.random.fork_rng():
        torch.manual_seed(Stream(0, "init", name).torch_seed())
        return build_model("digits_cnn", (1, 8, 8), NUM_CLASSES, width=4)


def inputs_for(name: str, config: Any, tmp_path: Path) -> Inputs:
    """Return the inputs that method ``name`` reads with these settings."""
    reads = registry.get("method", name).build.reads_inputs(config)
    labels = fold_inputs(tmp_path, "instance")[0].labels if "labels" in reads else ()
    return Inputs(labels, write_teacher(tmp_path) if "teacher" in reads else None)


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
