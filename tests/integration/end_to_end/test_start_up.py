"""What is imported before a command's first line, before a run's first step, and by a forked run: each would cost seconds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

LATE = ("wandb", "pandas", "matplotlib", "sklearn", "scipy", "torchvision", "torch._dynamo", "torch._inductor", "submitit", "pyarrow")

PROGRAM = """
import json, sys
from repro.engine import step
from repro.config.compose import compose
from repro.training.run import execute

take = step.TrainingStep.take
def first(*arguments, **named):
    print(json.dumps([name for name in {late} if name in sys.modules]))
    step.TrainingStep.take = take
    return take(*arguments, **named)
step.TrainingStep.take = first
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
import sweeps.local.warm
from sweeps.local.worker import train

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


FIRST_LINE = """
import json, runpy, sys

class First:
    def __init__(self, stream):
        self.stream = stream
    def write(self, text):
        sys.stdout, sys.stderr = out, err
        print(json.dumps(sorted(sys.modules)))
        sys.exit()
    def __getattr__(self, name):
        return getattr(self.stream, name)

out, err = sys.stdout, sys.stderr
sys.stdout, sys.stderr = First(out), First(err)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""

RUN = "method=one_hot dataset=digits"


@pytest.mark.parametrize(
    "words",
    [
        "repro --help",
        "repro --version",
        f"repro {RUN} sed=0",
        f"repro {RUN} seed=0 optim.lr=0.1",
        f"repro {RUN} seed=0 +exec.devise=cpu",
        f"repro {RUN} seed=0 exec=gpu",
        "sweeps plan demo",
        "sweeps status demo",
        "sweeps run demo",
        "sweeps --help",
        "sweeps plan dmo",
        "slurm status",
        "slurm --help",
        "analysis tables demo",
        "analysis --help",
    ],
)
def test_a_command_prints_its_first_line_before_it_imports_what_takes_seconds(words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", FIRST_LINE, *words.split()]
    environment = {**os.environ, "REPRO_RUNS": str(tmp_path / "runs")}
    output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    imported = set(json.loads(output.splitlines()[-1]))
    # Hydra reads the settings of a single run; the others leave it to those.
    heavy = {*LATE, "torch"} if words.startswith("repro") else {*LATE, "torch", "hydra"}
    assert not heavy & imported
    assert len(imported) < 700
