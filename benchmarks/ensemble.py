"""Runs that share a device: one process that trains them as a batched ensemble, against each run's own step, one after the other.

``python benchmarks/ensemble.py --model digits_cnn --runs 3``; processes side by side are measured by ``throughput.py --runs``.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, jvp, stack_module_state, vmap

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from benchmarks.arguments import count, run
from benchmarks.clock import in_turns, say
from benchmarks.execution import Execution, our_step
from benchmarks.page import Page, Table
from benchmarks.problem import DATASETS, Learner, Problem, make_learner, make_problem
from repro.allocator import keep_freed_memory
from repro.determinism import make_deterministic
from repro.errors import UserError
from repro.linearize import load_forward_mode
from repro.methods.instance_labels import InstanceLabelsConfig
from repro.network import Network
from repro.run import choose_device

#: Largest relative distance between a network's movement in the ensemble and alone, in one float32 step. In float64 it is 1e-12; float32's
#: rounding alone makes 1e-2 of it on a deep network with BatchNorm and few images.
SAME = 2e-2


class Ensemble:
    """The step with instance labels, of several networks at once by ``torch.vmap``; plain SGD with weight decay, softmax labels."""

    def __init__(
        self, learners: Sequence[Learner], problem: Problem, *, learning_rate: float, label_rate: float, weight_decay: float
    ) -> None:
        load_forward_mode()
        self._model = learners[0].model
        self._network = Network(self._model)
        self.parameters, self.buffers = stack_module_state([learner.model for learner in learners])
        self.parameters = {name: value.detach() for name, value in self.parameters.items()}
        self.logits = torch.stack([learner.method.state_dict()["logits"] for learner in learners])
        self._rates = learning_rate, label_rate, weight_decay
        self._problem = problem
        self._inputs = problem.inputs.expand(len(learners), *problem.inputs.shape)
        self._meta_inputs = problem.meta.inputs.expand(len(learners), *problem.meta.inputs.shape)

    def __call__(self) -> None:
        """Take one step of every network on the batch of the problem."""
        rows = self._problem.rows
        moved, buffers, labels = vmap(self._one, randomness="error")(
            self.parameters, self.buffers, self.logits[:, rows], self._inputs, self._meta_inputs
        )
        self.parameters, self.buffers = moved, buffers
        self.logits[:, rows] = labels

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], logits: Tensor, inputs: Tensor, meta_inputs: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        rate, label_rate, weight_decay = self._rates
        size = len(inputs)

        def scores(present: dict[str, Tensor]) -> Tensor:
            with self._network.frozen_running_statistics():
                return F.log_softmax(functional_call(self._model, present, (inputs,)), dim=1)

        def loss(present: dict[str, Tensor], targets: Tensor) -> Tensor:
            return -(targets * scores(present)).sum() / size

        def meta_loss(present: dict[str, Tensor]) -> Tensor:
            with self._network.frozen_running_statistics():
                return F.cross_entropy(functional_call(self._model, present, (meta_inputs,)), self._problem.meta.targets)

        targets = torch.softmax(logits, dim=1)
        gradients = grad(loss)(parameters, targets)
        ahead = {name: value - rate * gradients[name] for name, value in parameters.items()}
        slope = jvp(scores, (parameters,), (grad(meta_loss)(ahead),))[1]
        slope = rate * slope / size
        logits = logits - label_rate * targets * (slope - (targets * slope).sum(1, keepdim=True))
        targets = torch.softmax(logits, dim=1)

        def real(present: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            # The one pass whose running statistics are kept.
            moved = {name: value.clone() for name, value in buffers.items()}
            outputs = functional_call(self._model, (present, moved), (inputs,))
            return -(targets * F.log_softmax(outputs, dim=1)).sum() / size, moved

        last, moved = grad(real, has_aux=True)(parameters)
        return {name: value - rate * (last[name] + weight_decay * value) for name, value in parameters.items()}, moved, logits


def measure(model: str, runs: int, *, device: torch.device, batch: int, meta_batch: int, repeats: int) -> list[dict[str, Any]]:
    """Return a row for each way of taking one step of each of ``runs`` runs.

    Raises:
        UserError: the ensemble does not take the steps of the runs alone.
    """
    problem = make_problem(model, device=device, batch=batch, meta_batch=meta_batch)
    config = problem.config
    alone = [make_learner(problem) for _ in range(runs)]
    together = [make_learner(problem) for _ in range(runs)]
    for index, pair in enumerate(zip(alone, together, strict=True)):
        # Runs differ by their seed; here by their weights.
        for learner in pair:
            for parameter in learner.model.parameters():
                parameter.data.mul_(1.0 + 0.01 * index)
    assert isinstance(config.method, InstanceLabelsConfig)
    label_rate = config.method.learning_rate
    ensemble = Ensemble(
        together, problem, learning_rate=config.optim.learning_rate, label_rate=label_rate, weight_decay=config.optim.weight_decay
    )
    steps = [our_step(problem, learner, Execution()) for learner in alone]

    def one_by_one() -> None:
        for step in steps:
            step(problem.inputs, problem.rows, problem.meta)

    before = [[p.detach().clone() for p in learner.model.parameters()] for learner in alone]
    one_by_one()
    ensemble()
    worst = 0.0
    for index, learner in enumerate(alone):
        own = torch.cat([parameter.detach().flatten() for parameter in learner.model.parameters()])
        other = torch.cat([ensemble.parameters[name][index].flatten() for name, _ in learner.model.named_parameters()])
        movement = own - torch.cat([start.flatten() for start in before[index]])
        worst = max(worst, float((other - own).norm() / movement.norm()))
    if not worst <= SAME:
        raise UserError(f"{model}: a network of the ensemble moves otherwise than alone, by {worst:.1e} (relative); at most {SAME:.0e}.")
    say(f"{model}: the ensemble takes the steps of the runs alone, within {worst:.0e}")
    calls: dict[str, Callable[[], None]] = {"one by one": one_by_one, "ensemble": ensemble}
    seconds = in_turns(calls, repeats=repeats, device=device, at_least_s=0.3)
    reference = seconds["one by one"].median
    return [
        {
            "model": model,
            "runs": runs,
            "what": name,
            "seconds": sample.median,
            "quartiles": sample.quartiles,
            "ratio": sample.median / reference,
        }
        for name, sample in seconds.items()
    ]


NOTES = (
    "One step with instance labels of each of the runs, in one process: by the step of a run, eager, one run after the other; and by "
    "`torch.func.stack_module_state` and `torch.vmap`, all at once (double the passes that `torch.func` needs: its `jvp` computes the "
    "training pass again). Before that, one step of both is compared network by network. Processes side by side: `throughput.py --runs`.",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="digits_cnn", choices=[*DATASETS])
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--runs", type=count, default=3, help="runs that share the device (default 3)")
    parser.add_argument("--batch", type=count, default=128)
    parser.add_argument("--meta-batch", type=count, default=256)
    parser.add_argument("--repeats", type=count, default=5, help="rounds (default 5)")
    parser.add_argument("--threads", type=count)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--page", action="store_true", help="write a dated page under docs/benchmarks")
    options = parser.parse_args(arguments)
    device = choose_device(options.device)
    make_deterministic(threads=options.threads, allow_tf32=False)
    keep_freed_memory()
    rows = measure(options.model, options.runs, device=device, batch=options.batch, meta_batch=options.meta_batch, repeats=options.repeats)
    lines = [
        [
            row["what"],
            str(row["runs"]),
            f"{row['seconds']:.4g}",
            f"{row['quartiles'][0]:.4g} - {row['quartiles'][1]:.4g}",
            f"{row['ratio']:.2f}",
        ]
        for row in rows
    ]
    shown = Table(["steps of all runs", "runs", "seconds", "quartiles", "/ one by one"], lines, title=options.model)
    print(json.dumps(rows, indent=2) if options.json else shown)
    if options.page:
        sizes = f"{options.batch} training and {options.meta_batch} meta images, float32, {options.repeats} rounds, medians and quartiles."
        say(f"written: {Page('ensemble', 'Runs as one batched ensemble', [shown], [sizes, *NOTES]).write(device)}")


if __name__ == "__main__":
    run(main)
