"""Whole runs on CUDA: evaluation, checkpoint, and a resume that sees other GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from repro.config.compose import compose
from repro.data.prepare import prepare
from repro.files import read_json
from repro.runs.inputs import open_inputs
from repro.training import guard
from repro.training.build import build
from repro.training.loop import Training
from repro.training.run import execute

SETTINGS = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=2", "tracker=none", "exec.device=cuda"]


def training(tmp_path: Path) -> Training:
    config = compose([*SETTINGS, f"paths.runs={tmp_path}"])
    device = torch.device("cuda")
    return build(config, prepare(config, device), device, tmp_path, open_inputs(config))


@pytest.mark.parametrize("execution", [[], ["exec=audit", "exec.cuda_graphs=true"], ["exec.precision=bfloat16", "exec.cuda_graphs=true"]])
def test_a_run_ends(tmp_path: Path, execution: list[str]) -> None:
    folder = execute(compose([*SETTINGS, *execution, f"paths.runs={tmp_path}"]))
    assert (folder / "final.json").exists()
    assert (folder / "labels" / "instances.f16").exists()


@pytest.mark.parametrize("close", [True, False])
def test_auto_compares_and_goes_on_as_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, close: bool) -> None:
    """The first steps of the candidates are really taken, as graphs; what they are taken for is given here."""
    apart = 0.0 if close else 1.0
    monkeypatch.setattr(guard, "distance", lambda moved, reference: dict.fromkeys(guard.BOUNDS, apart))
    config = compose([*SETTINGS, "exec=auto", f"paths.runs={tmp_path}"])
    folder = execute(config)
    execution = read_json(folder / "provenance.json")["execution"]
    fast = close and torch.cuda.get_device_capability() >= (8, 0)
    assert (execution["precision"], execution["cuda_graphs"]) == (("bfloat16", True) if fast else ("float32", False))
    first = (folder / "metrics.jsonl").read_text().partition("\n")[0]
    assert ("guard/labels" in first) == close
    (kept,) = (tmp_path / "guard").iterdir()
    assert len(read_json(kept)["distances"]) == (1 if close else len(guard.CANDIDATES) - 1)


def test_the_random_state_of_other_gpus_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is resumed where fewer GPUs are visible goes on."""
    run = training(tmp_path)
    state = run.state()
    assert len(state["random"]) == 2
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", lambda states: pytest.fail("the states of all GPUs"))
    run.load_state(state)
