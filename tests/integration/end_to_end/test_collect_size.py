"""A thousand runs of the paper's size are collected in little more than it takes to read them, and in a fraction of the memory."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from repro.runs.manifest import seal

RUNS, EPOCHS, CLASSES = 1000, 165, 100
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
