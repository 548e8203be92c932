"""The operations of a training step, counted without computing: the step itself runs on tensors that have shapes and no numbers.

Counted is a :class:`repro.engine.step.TrainingStep` in bfloat16 by autocast: of each operation the FLOPs (by PyTorch's formulas), the bytes
of its arguments and results, and the number format. Where all is float32 it is the same step without the casts, at four bytes a number.
A method without a meta set stands for one_hot, one with a meta set for instance_labels; gathering and augmenting images is not counted.
"""

from __future__ import annotations

import functools
import json
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from repro.config import registry
from repro.config.schema import MetaConfig, OptimConfig
from repro.engine.method import Context
from repro.engine.optimizer import SGD
from repro.engine.step import MetaBatch, TrainingStep
from sweeps.plan.roofline import Counted, Operation

_aten = torch.ops.aten
#: They start no kernel.
_FREE = {_aten.empty, _aten.empty_strided, _aten.empty_like, _aten.new_empty, _aten.new_empty_strided, _aten._unsafe_view}


@functools.cache
def count_step(
    model: str, settings: str, image_shape: tuple[int, int, int], num_classes: int, *, batch: int, meta_batch: int = 0
) -> Counted:
    """Count a training step on ``batch`` images (C, H, W), with a look-ahead on ``meta_batch`` images if there are any.

    ``settings`` are those of the registered ``model``, as JSON.

    Raises:
        UserError: the images are too small for the network.
        RuntimeError: the network asks for a number.
    """

    def prepare(network: nn.Module) -> Callable[[], object]:
        def images(number: int) -> tuple[Tensor, Tensor]:
            return torch.empty(number, *image_shape), torch.empty(number, dtype=torch.int64)

        inputs, observed = images(batch)
        optim = OptimConfig(name="counted", epochs=1, batch_size=batch, learning_rate=0.1, weight_decay=5e-4, momentum=0.9)
        meta = MetaBatch(*images(meta_batch)) if meta_batch else None
        choice = registry.get("method", "instance_labels" if meta_batch else "one_hot")
        method = choice.build(choice.config(), Context(num_classes=num_classes, observed=observed, device=observed.device, seed=0))
        step = TrainingStep(network.train(), SGD(network, optim), method, optim, MetaConfig())
        return lambda: step(inputs, torch.arange(batch), observed, epoch=0, meta=meta)

    return _count(model, settings, image_shape, num_classes, prepare)


@functools.cache
def count_forward(model: str, settings: str, image_shape: tuple[int, int, int], num_classes: int, *, images: int) -> Counted:
    """Count the evaluation of so many images; as :func:`count_step`."""

    def prepare(network: nn.Module) -> Callable[[], object]:
        inputs = torch.empty(images, *image_shape)
        return torch.no_grad()(lambda: network.eval()(inputs))

    return _count(model, settings, image_shape, num_classes, prepare)


@functools.cache
def count_state(model: str, settings: str, image_shape: tuple[int, int, int], num_classes: int) -> tuple[int, int]:
    """Return the bytes of a network's parameters, and of these and its running statistics; raises as :func:`count_step`."""
    with FakeTensorMode():
        network = _network(model, settings, image_shape, num_classes)
        parameters, state = list(network.parameters()), list(network.state_dict().values())
        return sum(tensor.nbytes for tensor in parameters), sum(tensor.nbytes for tensor in state)


def _network(model: str, settings: str, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    choice = registry.get("model", model)
    network: nn.Module = choice.build(choice.config(name=model, **json.loads(settings)), num_classes=num_classes, image_shape=image_shape)
    return network


def _count(
    model: str,
    settings: str,
    image_shape: tuple[int, int, int],
    num_classes: int,
    prepare: Callable[[nn.Module], Callable[[], object]],
) -> Counted:
    """Count the call that ``prepare`` returns for the network; what is made before is in memory only."""
    with FakeTensorMode(), _Counter() as counter:
        network = _network(model, settings, image_shape, num_classes)
        # As repro.engine.execution casts it; the network is fake, and lies where it is.
        forward = network.forward

        def in_bfloat16(images: Tensor) -> Tensor:
            with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
                logits: Tensor = forward(images)
            return logits.float()

        network.forward = in_bfloat16
        call = prepare(network)
        counter.operations.clear()
        call()
    return Counted(tuple(counter.operations), *counter.peaks)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations inside ``with``, and the most bytes alive at a time, as they are and where all is float32."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.peaks = (0, 0)
        self._now = (0, 0)
        self._alive: dict[int, object] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        results = list(_tensors(output))
        if func.is_view or not results:
            return output
        given = list(_tensors((args, list(kwargs.values()))))
        cast = func.overloadpacket is _aten._to_copy and given[0].is_floating_point() and results[0].is_floating_point()
        for tensor in results:
            self._follow(tensor, nothing_in_float32=cast)
        if func.overloadpacket not in _FREE:
            formula = flop_registry.get(func.overloadpacket)
            flops = int(formula(*args, **kwargs, out_val=output)) if formula else 0
            whole, in_float32 = map(sum, zip(*map(_bytes, given + results), strict=True))
            self.operations.append(Operation(flops, whole, in_float32, bool(given) and given[0].dtype == torch.bfloat16, cast))
        return output

    def _follow(self, tensor: Tensor, *, nothing_in_float32: bool) -> None:
        """Count the memory of a new tensor until it is released; one in place has the memory of its argument."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        whole, in_float32 = storage.nbytes(), 0 if nothing_in_float32 else storage.nbytes() * (2 if tensor.dtype == torch.bfloat16 else 1)
        self._move(whole, in_float32)

        def release() -> None:
            del self._alive[key]
            self._move(-whole, -in_float32)

        self._alive[key] = weakref.finalize(storage, release)

    def _move(self, whole: int, in_float32: int) -> None:
        self._now = (self._now[0] + whole, self._now[1] + in_float32)
        self.peaks = (max(self.peaks[0], self._now[0]), max(self.peaks[1], self._now[1]))


def _tensors(value: object) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _bytes(tensor: Tensor) -> tuple[int, int]:
    whole = tensor.numel() * tensor.element_size()
    return whole, 2 * whole if tensor.dtype == torch.bfloat16 else whole
