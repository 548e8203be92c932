"""What is imported before a run's first step, and before the first line of a command that needs no PyTorch: each would cost seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LATE = {"wandb", "pandas", "matplotlib", "sklearn", "scipy", "torchvision", "torch._dynamo", "torch._inductor", "submitit", "pyarrow"}

FIRST_STEP = """
import json, sys
from repro.engine import step
from repro.config.compose import compose
from repro.training.run import execute

take = step.TrainingStep.take
def first(*arguments, **named):
    print(json.dumps(list(sys.modules)))
    step.TrainingStep.take = take
    return take(*arguments, **named)
step.TrainingStep.take = first
execute(compose(sys.argv[1:]))
"""

FIRST_LINE = """
import json, runpy, sys

class First:
    def write(self, text):
        sys.stdout, sys.stderr = out, err
        print(json.dumps(list(sys.modules)))
        sys.exit()
    def flush(self):
        pass

out, err = sys.stdout, sys.stderr
sys.stdout, sys.stderr = First(), First()
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def imported(program: str, *arguments: str, cwd: Path) -> set[str]:
    command = [sys.executable, "-c", program, *arguments]
    output = subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout
    return set(json.loads(output.splitlines()[0]))


def test_nothing_heavy_is_imported_before_the_first_step(tmp_path: Path) -> None:
    settings = ["method=instance_labels", "dataset=digits", "seed=0", "optim.epochs=1", "tracker=none", f"paths.runs={tmp_path}"]
    assert not imported(FIRST_STEP, *settings, cwd=tmp_path) & LATE


@pytest.mark.parametrize("words", ["sweeps --help", "sweeps plan dmo", "slurm status", "analysis tables demo"])
def test_a_command_prints_its_first_line_before_it_imports_what_takes_seconds(words: str, tmp_path: Path) -> None:
    assert not imported(FIRST_LINE, *words.split(), cwd=tmp_path) & {"torch", "hydra", "wandb", "matplotlib", "sklearn"}
