"""How a network is executed: the number format of its products and the layout of its images. Nothing here changes what is computed."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from repro.config.schema import ExecConfig
from repro.errors import UserError


def prepare_model(model: nn.Module, config: ExecConfig, device: torch.device) -> nn.Module:
    """Move ``model`` to ``device`` and make it run as ``config`` says; the same object is returned.

    With ``precision=bfloat16`` its convolutions and matrix products run in bfloat16, while its parameters, its logits and all that
    follows from them (losses, labels, their gradient) stay float32.

    Raises:
        UserError: ``cuda_graphs`` without a CUDA device.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise UserError(f"exec.cuda_graphs=true: CUDA graphs need a CUDA device, and this is {device.type}. Use exec.cuda_graphs=false.")
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.precision == "bfloat16":
        forward = model.forward

        def in_bfloat16(images: Tensor) -> Tensor:
            # Weights change between the passes of a step, so casts of them cannot be kept from one to the next.
            with torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False):
                logits: Tensor = forward(images)
            return logits.float()

        model.forward = in_bfloat16
    return model
