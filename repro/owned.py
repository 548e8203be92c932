"""A network that a method owns, with an optimiser of its own and a state that a checkpoint can hold."""

from __future__ import annotations

from torch import Tensor, nn, optim


class OwnedNetwork:
    """A network and its optimiser.

    Attributes:
        network: on the device of the run.
        optimizer: over its parameters.
    """

    def __init__(self, network: nn.Module, optimizer: optim.Optimizer) -> None:
        self.network = network
        self.optimizer = optimizer

    def state_dict(self, prefix: str) -> dict[str, Tensor]:
        """Return everything that training changes, as tensors whose names begin with ``prefix``."""
        state = {f"{prefix}.network.{name}": value for name, value in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            # Without a momentum SGD keeps None.
            state |= {f"{prefix}.optimizer.{index}.{name}": value for name, value in values.items() if value is not None}
        return state

    def load_state_dict(self, state: dict[str, Tensor], prefix: str) -> None:
        """Take over what :meth:`state_dict` returned; tensors of other prefixes are left alone."""
        start = f"{prefix}.network."
        self.network.load_state_dict({name.removeprefix(start): value for name, value in state.items() if name.startswith(start)})
        start, present = f"{prefix}.optimizer.", self.optimizer.state_dict()
        kept: dict[int, dict[str, Tensor]] = {}
        for name, value in state.items():
            if name.startswith(start):
                index, key = name.removeprefix(start).split(".", 1)
                # The optimiser may keep and move the very tensor it is given.
                kept.setdefault(int(index), {})[key] = value.clone()
        self.optimizer.load_state_dict({"state": kept, "param_groups": present["param_groups"]})
