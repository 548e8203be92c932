"""What a run imports before its first step, and what is left to import for one that a sweep forks; each of these would cost it seconds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

LATE = ("wandb", "pandas", "matplotlib", "sklearn", "scipy", "torchvision", "torch._dynamo", "torch._inductor", "submitit", "pyarrow")

PROGRAM = """
import json, sys
from repro import step
from repro.compose import compose
from repro.run import execute

take = step.TrainingStep.__call__
def first(*arguments, **named):
    print(json.dumps([name for name in {late} if name in sys.modules]))
    step.TrainingStep.__call__ = take
    return take(*arguments, **named)
step.TrainingStep.__call__ = first
execute(compose(sys.argv[1:]))
"""


@pytest.mark.parametrize("method", ["one_hot", "instance_labels"])
def test_nothing_heavy_is_imported_before_the_first_step(method: str, tmp_path: Path) -> None:
    arguments = [f"method={method}", "dataset=digits", "seed=0", "optim.epochs=1", "optim.milestones=[]", "tracker=none"]
    command = [sys.executable, "-c", PROGRAM.format(late=LATE), *arguments, f"paths.runs={tmp_path}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert json.loads(output.splitlines()[0]) == []


FORKED = """
import json, sys
import sweeps.warm
from sweeps.worker import train

before = set(sys.modules)
code = train(sys.argv[1:])
print(json.dumps([code, sorted(set(sys.modules) - before)]))
"""


def test_a_sweep_has_imported_what_its_runs_need(tmp_path: Path) -> None:
    """W&B's late imports alone took a second a run, of three that one-hot labels on digits train for."""
    arguments = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=1", "optim.milestones=[]", "tracker=offline"]
    command = [sys.executable, "-c", FORKED, *arguments, f"paths.runs={tmp_path}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    code, late = json.loads(output.splitlines()[-1])
    assert code == 0
    assert not {*LATE, "sympy", "pydantic", "requests", "safetensors"} & set(late)
    assert len(late) < 40, late
