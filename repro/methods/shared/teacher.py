"""The trained model of a finished run, for methods that learn from its predictions."""

from __future__ import annotations

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from repro.config import registry
from repro.engine.method import Context
from repro.errors import UserError
from repro.runs.inputs import InputRun
from repro.runs.manifest import read_bytes


def load_model(run: InputRun, context: Context) -> nn.Module:
    """Return the trained model of a finished run, in evaluation mode, on the device of ``context``.

    Raises:
        UserError: the run saw images of another scale, kept no weights, or they are damaged or do not fit the images, the classes or
            the code.
    """
    data = context.data
    assert data is not None
    taught_with = run.fields["augment.normalization"]
    if taught_with != data.transform.normalization:
        raise UserError(
            f"augment.normalization={data.transform.normalization}, but the teacher {run.run_id} was trained "
            f"with {taught_with}: it would see images of another scale. Use the same."
        )
    file = "model.safetensors"
    if not (run.folder / file).exists():
        raise UserError(f"input {run.run_id} has no model.safetensors: it was trained with exec.save_model=false. Train it again with it.")
    choice = registry.get("model", str(run.fields["model.name"]))
    prefix = "model."
    settings = {key.removeprefix(prefix): value for key, value in run.fields.items() if key.startswith(prefix) and key != "model.version"}
    model: nn.Module = choice.build(choice.config(**settings), num_classes=context.num_classes, image_shape=data.image_shape)
    try:
        model.load_state_dict(load(read_bytes(run.folder, file)))
    except (RuntimeError, SafetensorError) as error:
        raise UserError(f"input {run.run_id}: {run.folder / file} cannot be used: {str(error).splitlines()[0]}") from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(context.device).eval()


@torch.no_grad()
def logits_of_all(model: nn.Module, context: Context, *, block: int = 1000) -> Tensor:
    """Return the logits (N, K) of ``model`` for the training images, not augmented, ``block`` images in a forward pass."""
    assert context.data is not None
    return torch.cat([model(context.data.transform(images, None)) for images in torch.split(context.data.train.images, block)])
