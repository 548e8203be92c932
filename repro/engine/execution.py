"""How a network is executed: the number format of its products and the layout of its images. Nothing here changes what is computed."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from repro.config.schema import ExecConfig
from repro.errors import UserError


def prepare_model(model: nn.Module, config: ExecConfig, device: torch.device) -> nn.Module:
    """Move ``model`` to ``device`` and make it run as ``config`` says; the same object is returned.

    With ``precision=bfloat16`` its convolutions and matrix products run in bfloat16, while its parameters, its logits and all that
    follows from them (losses, labels, their gradient) stay float32. With ``label_gradient=float32`` a pass inside :func:`recorded` is in
    float32 throughout.

    Raises:
        UserError: ``cuda_graphs`` without a CUDA device.
    """
    if config.cuda_graphs and device.type != "cuda":
        raise UserError(f"exec.cuda_graphs=true: CUDA graphs need a CUDA device, and this is {device.type}. Use exec.cuda_graphs=false.")
    model = model.to(device)
    if config.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if config.precision == "bfloat16":
        model.forward = _InBfloat16(model.forward, device.type, recorded_too=config.label_gradient == "precision")
    return model


class _InBfloat16:
    def __init__(self, forward: Callable[[Tensor], Tensor], device: str, *, recorded_too: bool) -> None:
        self._forward = forward
        self._device = device
        self.recorded_too = recorded_too
        self.enabled = True

    def __call__(self, images: Tensor) -> Tensor:
        # Weights change between the passes of a step, so casts of them cannot be kept from one to the next.
        with torch.autocast(self._device, dtype=torch.bfloat16, enabled=self.enabled, cache_enabled=False):
            logits = self._forward(images)
        return logits.float()


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[None]:
    """Run the pass whose derivative gives the labels' gradient in the number format that is meant for it."""
    forward = model.forward
    if not isinstance(forward, _InBfloat16) or forward.recorded_too:
        yield
        return
    forward.enabled = False
    try:
        yield
    finally:
        forward.enabled = True


def runs_on(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Say whether one of the architectures that PyTorch is ``built`` for (sm_90, sm_90a, compute_90) runs on a GPU of that capability.

    Machine code (sm) runs on GPUs of its own major version that are not older, PTX (compute) on all that are not older; a letter behind the
    number ties it to that very one.
    """
    for kind, number, letter in (match.groups() for name in built if (match := re.fullmatch(r"(sm|compute)_(\d+)([a-z]?)", name))):
        least = divmod(int(number), 10)
        if capability == least or (not letter and capability > least and (kind == "compute" or capability[0] == least[0])):
            return True
    return False
