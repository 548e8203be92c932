"""Results of the paper's size: a thousand runs are collected, and trajectories of CIFAR-100 averaged, in bounded time, memory and disk."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.runs.manifest import seal

EPOCHS = 165
RUNS, CLASSES = 1000, 100
COLLECT = """
import resource, sys
from pathlib import Path
from analysis.reading.store import write_store
store = write_store(Path(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(store.done, used.ru_maxrss, used.ru_utime + used.ru_stime)
"""


def collect(folder: Path) -> tuple[int, float, float]:
    """Return the runs done, the peak memory (GB) and the processor's seconds of a process of its own."""
    shown = subprocess.run([sys.executable, "-c", COLLECT, str(folder)], capture_output=True, text=True, check=True).stdout
    done, peak, seconds = shown.split()
    return int(done), int(peak) * 1024 / 1e9, float(seconds)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_runs(tmp_path: Path) -> None:
    generator = random.Random(0)
    series = [f"class_{what}/{index:03d}" for what in ("meta_accuracy", "target_probability") for index in range(CLASSES)]
    names = [*series, "test/accuracy", "test/loss", "train/loss", "val/accuracy", "label/entropy"]
    rows = ({"epoch": epoch, **{name: generator.random() for name in names}} for epoch in range(EPOCHS + 1))
    curves = tmp_path / "metrics.jsonl"
    curves.write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = tmp_path / "runs"
    for index in range(RUNS):
        folder = runs / f"run{index:04d}"
        folder.mkdir(parents=True)
        identity = {"schema": 1, "run_id": folder.name, "fields": {"seed": index, "method.name": "class_labels"}}
        documents = {"identity": identity, "final": {"test/accuracy": {"last": 0.5}}, "provenance": {}, "cost": {"wall_s": 1.0}}
        for name, document in {**documents, "status": {"state": "done", "ended": "2025-01-02T03:04:05Z"}}.items():
            (folder / f"{name}.json").write_text(json.dumps(document))
        os.link(curves, folder / "metrics.jsonl")
        seal(folder)
    # What one file costs to be read is this processor's measure of the rest.
    started = time.process_time()
    for _ in range(10):
        for line in curves.read_text().splitlines():
            json.loads(line)
    reading = (time.process_time() - started) / 10 * RUNS
    done, peak, seconds = collect(runs)
    print(f"{seconds:.1f} s, {seconds / reading:.1f} times the reading of the lines, {peak:.2f} GB")
    assert done == RUNS
    assert seconds < 3 * reading
    assert peak < 2


GIB = 2**30
FOLDS, NUM_INSTANCES, NUM_CLASSES = 5, 50_000, 100

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
