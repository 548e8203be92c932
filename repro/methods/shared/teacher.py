"""The trained model of a finished run, for methods that learn from its predictions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load
from torch import Tensor, nn

from repro.config import registry
from repro.engine.method import Context
from repro.errors import UserError
from repro.runs.manifest import read_bytes


def load_teacher(context: Context) -> Callable[[Tensor], Tensor]:
    """Return the trained model of ``context.inputs.teacher``: inputs (B, C, H, W) to logits (B, K), without gradients, evaluating.

    It is no module, so that no method takes it for a part of its own state.

    Raises:
        UserError: the run saw images of another scale, kept no weights, or they are corrupted.
    """
    run, data = context.inputs.teacher, context.data
    assert run is not None
    assert data is not None
    taught_with = run.fields["augment.normalization"]
    if taught_with != data.transform.normalization:
        raise UserError(
            f"augment.normalization={data.transform.normalization}, but the teacher {run.run_id} was trained "
            f"with {taught_with}: it would see images of another scale. Use the same."
        )
    if not (run.folder / "model.safetensors").exists():
        raise UserError(f"input {run.run_id} has no model.safetensors: it was trained with exec.save_model=false. Train it again with it.")
    settings = {name.removeprefix("model."): value for name, value in run.fields.items() if name.startswith("model.")}
    del settings["version"]
    choice = registry.get("model", str(settings["name"]))
    model: nn.Module = choice.build(choice.config(**settings), num_classes=context.num_classes, image_shape=data.image_shape)
    model.load_state_dict(load(read_bytes(run.folder, "model.safetensors")))
    return torch.no_grad()(model.to(context.device).eval().__call__)


def logits_of_all(teacher: Callable[[Tensor], Tensor], context: Context, *, block: int = 1000) -> Tensor:
    """Return the logits (N, K) of ``teacher`` for the training images, not augmented, ``block`` images in a forward pass."""
    assert context.data is not None
    return torch.cat([teacher(context.data.transform(images, None)) for images in torch.split(context.data.train.images, block)])
