"""Two specs that stand for those of the suite, with fabricated runs, evidence and pages."""

from pathlib import Path

import pytest
from run_folders import change, done_run, write_rows

import analysis.build
from analysis.build import write
from analysis.reading.keep import keep
from sweeps.plan.plan import Plan, make_plan, write_plans
from sweeps.spec.load import Spec, load_spec

SPEC = """\
title: A table
kind: table
rows:
  - {label: One-hot, set: {method: one_hot}}
  - {label: Labels, set: {method: class_labels}}
columns: [{label: Clean, set: {dataset: digits}}]
repeats: {seed: [0, 1, 2]}
value: {metric: test/accuracy, epoch: last, scale: percent, better: higher}
"""
FIGURE = """\
title: A figure
kind: figure
rows: [{label: Labels, set: {method: class_labels, dataset: digits}}]
repeats: {seed: [0]}
x: epoch
panels: [{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}]
"""
ROW = {"epoch": 0, "test/accuracy": 0.5, "class_meta_accuracy/001": 0.25, "class_target_probability/001": 0.75, "train/loss": "NaN"}


class Suite:
    """Two specs that stand for those of the suite, their runs, and a folder for their pages."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.tables = folder / "runs", folder / "tables"
        for name, text in (("shown", SPEC), ("drawn", FIGURE)):
            (folder / f"{name}.yaml").write_text(text)
        self.paths = {name: folder / f"{name}.yaml" for name in ("shown", "drawn")}
        monkeypatch.setattr("sweeps.spec.load.known_specs", lambda: self.paths)
        monkeypatch.setattr(analysis.build, "known_specs", lambda: self.paths)
        monkeypatch.setattr("analysis.reading.cells.known_specs", lambda: self.paths)
        # The claims are of specs that are not among these.
        monkeypatch.setattr(analysis.build, "claims_files", lambda runs: {})
        self.specs: list[Spec] = [load_spec(name) for name in self.paths]
        plan = make_plan(self.specs, self.runs)
        write_plans(plan)
        self.names = list(plan.runs)
        for index, name in enumerate(self.names):
            folder = self.runs / name
            done_run(folder, accuracy=0.9 + index / 100, fields=plan.runs[name].fields)
            change(folder, "status.json", {"host": "secret", "pid": 7})
            (folder / "model.safetensors").write_bytes(b"weights")
            change(folder, "provenance.json", {"host": "secret", "hosts": [{"host": "secret"}]})
            write_rows(folder, [ROW])

    def change(self, name: str, text: str) -> tuple[Spec, Plan]:
        """Give the spec another text, and write its plan."""
        self.paths[name].write_text(text)
        spec = load_spec(name)
        plan = make_plan([spec], self.runs)
        write_plans(plan)
        return spec, plan

    def keep(self) -> None:
        keep(self.specs, self.runs, self.tables / "evidence")

    def fill(self) -> None:
        self.keep()
        write(self.tables)
