"""No step of any method, network or execution waits for the device, copies from or to the host, or breaks the rules of graph capture."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from null_cuda import Counts, counting, loaded, no_waiting

from repro.config import registry
from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.doctor import Sizes, random_images, random_training
from repro.training import run

#: Those that need neither a compiler nor minutes.
EXECUTIONS = {
    "float32": ["exec=audit"],
    "auto": ["exec=auto"],
    "bfloat16": ["exec=audit", "exec.precision=bfloat16", "exec.channels_last=true"],
    "fast": ["exec=fast", "exec.compile=false"],
}

#: Small, where a network has a size.
SMALL = {"wrn_28_10": ["model.depth=10", "model.widen_factor=1"], "resnet_cifar": ["model.depth=8"]}

NOISE = ["noise=uniform", "noise.rate=0.4", "optim=standard", "optim.epochs=2"]


def count_step(method: str, model: Sequence[str], execution: str, runs: Path, monkeypatch: pytest.MonkeyPatch) -> Counts:
    """Take steps of a training on random images, and count the last one. On a GPU nothing is counted, and a wait is an error."""
    settings = [*NOISE, "split.meta_size=100", f"paths.runs={runs}", "exec.threads=1", "augment=crop_flip"]
    monkeypatch.setattr(run, "prepare", lambda config, device: prepare(config, device, random_images(200)))
    choice = registry.get("method", method)
    for read in choice.build.reads_inputs(choice.config()):  # trained on the CPU, and small
        source = {"labels": "instance_labels", "teacher": "one_hot"}[read]
        small = [f"method={source}", "dataset=cifar100", "model=small_cnn", "model.width=2", "seed=0", "tracker=none", "exec.device=cpu"]
        name = run.execute(compose([*small, *settings, "optim.batch_size=8", "meta.batch_size=16"])).name
        settings.append(f"inputs.labels=[{name}]" if read == "labels" else f"inputs.teacher={name}")
    more = [f"method={method}", *EXECUTIONS[execution], *settings, "trajectory.record=true"]
    training = random_training(*more, device=torch.device("cuda"), sizes=Sizes(tuple(model), batch=8, meta_batch=16))
    plan = training.begin_epoch()
    for training.batch in range(3):  # libraries, the allocator and graphs do things once
        training.take_step(plan)
    torch.cuda.synchronize()
    with counting() if loaded() else no_waiting() as counts:
        training.take_step(plan)
    return counts


@pytest.mark.parametrize("execution", EXECUTIONS)
@pytest.mark.parametrize("method", registry.choices("method"))
def test_steps_of_every_method(method: str, execution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_step(method, ["model=small_cnn"], execution, tmp_path, monkeypatch)
    assert counts.forbidden == {}
    if execution in ("auto", "fast") and loaded():
        assert counts.events["graph launch"] == 1


@pytest.mark.parametrize("execution", ["float32", "fast"])
@pytest.mark.parametrize("method", ["one_hot", "instance_labels"])
@pytest.mark.parametrize("model", registry.choices("model"))
def test_steps_of_every_network(model: str, method: str, execution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_step(method, [f"model={model}", *SMALL.get(model, ())], execution, tmp_path, monkeypatch).forbidden == {}
