"""Trajectories of CIFAR-100's size, written as fold runs write them and averaged as a final run does: memory and disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GIB = 2**30
FOLDS, EPOCHS, NUM_INSTANCES, NUM_CLASSES = 5, 165, 50_000, 100

SCRIPT = """
import json, resource, sys
from pathlib import Path
import numpy as np, torch
from types import SimpleNamespace
from repro.methods.shared.averaged_labels import averaged_labels
from repro.runs.inputs import InputRun, Inputs
from repro.labels.recorder import Layout, Recorder
from repro.runs.manifest import Manifest
from repro.engine.method import Context

folder, folds, epochs, size, classes = Path(sys.argv[1]), *map(int, sys.argv[2:6])
torch.set_num_threads(1)
cpu, observed = torch.device("cpu"), torch.arange(size) % classes
held_out = np.arange(size) % folds

class Moving:
    "Labels that move a little in each epoch; their values do not matter here."
    context = SimpleNamespace(device=cpu)
    def __init__(self, rows):
        self.rows = torch.softmax(torch.randn(rows, classes), 1)
    def targets(self, rows):
        return self.rows[rows]

runs = []
for fold in range(folds):
    indices = np.flatnonzero(held_out != fold)
    layout = Layout("instance", epochs=epochs, rows=len(indices), num_classes=classes)
    method = Moving(len(indices))
    (folder / str(fold)).mkdir()
    recorder = Recorder(folder / str(fold) / "labels", layout, method, when="after")
    recorder.begin(indices, completed_epochs=0)
    rows = torch.arange(len(indices)).split(128)
    for epoch in range(epochs):
        for step, batch in enumerate(rows):
            recorder.note("after", batch, step)
        recorder.end_epoch(epoch + 1)
    manifest = Manifest(folder / str(fold), str(fold), complete=True, files=recorder.entries())
    manifest.write()
    fields = {"method.initial_target_probability": 0.9, "seed": 0, "optim.batch_size": 128}
    runs.append(InputRun(str(fold), folder / str(fold), fields, manifest))
data = SimpleNamespace(train_indices=np.arange(size))
context = Context(classes, observed, cpu, 0, epochs, size // 128 + 1, Inputs(tuple(runs)), data)
labels = averaged_labels(context)
everything = torch.arange(size)
for epoch in range(epochs):
    for batch in everything.split(128):
        labels.at(batch, epoch, 0)
print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_cifar100_size_fits_into_a_gigabyte(tmp_path: Path) -> None:
    needed = FOLDS * EPOCHS * NUM_INSTANCES * (FOLDS - 1) // FOLDS * NUM_CLASSES * 2
    if shutil.disk_usage(tmp_path).free < needed + GIB:
        pytest.skip(f"needs {needed / 1e9:.1f} GB of disk in {tmp_path}")
    sizes = [str(number) for number in (FOLDS, EPOCHS, NUM_INSTANCES, NUM_CLASSES)]
    try:
        result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), *sizes], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        disk = sum(path.stat().st_size for path in tmp_path.rglob("instances.f16"))
    finally:
        shutil.rmtree(tmp_path)
    assert disk == needed
    assert json.loads(result.stdout)["peak"] <= 1e9, result.stdout
