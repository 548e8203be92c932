"""Two specs beside those of the suite, with fabricated runs, evidence and pages."""

from pathlib import Path

import pytest
from run_folders import change, done_run, write_rows

import analysis.build
import sweeps.yaml_files
from analysis.build import make_files
from analysis.reading.evidence import open_source
from analysis.reading.keep import add
from analysis.tables.page import Files
from sweeps.plan import make_plan, write_plans
from sweeps.scales import load_scale
from sweeps.spec import load_spec

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
panels: [{metric: "class_meta_accuracy/{k}", label: Accuracy, classes: [1]}]
"""
ROW = {"epoch": 0, "test/accuracy": 0.5, "class_meta_accuracy/001": 0.25, "class_target_probability/001": 0.75, "train/loss": "NaN"}


class TwoSpecs:
    """A table (``shown``) and a figure (``drawn``) among the suite's specs, their runs, and a folder for their pages."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.runs, self.tables, self.suite = folder / "runs", folder / "tables", folder / "suite"
        (self.suite / "specs").mkdir(parents=True)
        for path in sweeps.yaml_files.FOLDER.glob("specs/*.yaml"):
            (self.suite / "specs" / path.name).symlink_to(path)
        for name in ("scale", "shared"):
            (self.suite / name).symlink_to(sweeps.yaml_files.FOLDER / name)
        monkeypatch.setattr(sweeps.yaml_files, "FOLDER", self.suite)
        # The claims are of specs that are not among the two.
        monkeypatch.setattr(analysis.build, "claims_files", lambda runs: {})
        self.evidence = self.tables / "evidence" / "paper"
        self.names = [*self.plan("shown", SPEC), *self.plan("drawn", FIGURE)][:6]
        for index, name in enumerate(self.names):
            done_run(self.runs / name, accuracy=0.9 + index / 100, fields=self.fields[name])
            change(self.runs / name, "status.json", {"host": "secret", "pid": 7})
            change(self.runs / name, "provenance.json", {"host": "secret", "hosts": [{"host": "secret"}]})
            write_rows(self.runs / name, [ROW])

    def plan(self, name: str, text: str = "", scale: str = "paper") -> list[str]:
        """Write the spec, if a ``text`` is given, and its plan; return its runs."""
        if text:
            (self.suite / "specs" / f"{name}.yaml").write_text(text)
        plan = make_plan([load_spec(name)], load_scale(scale), self.runs)
        write_plans(plan)
        self.fields = {**getattr(self, "fields", {}), **{run_id: run.fields for run_id, run in plan.runs.items()}}
        return list(plan.runs)

    def keep(self, *names: str, runs: Path | None = None, evidence: Path | None = None) -> dict[str, str]:
        """Add the runs of these specs, or of both, to the evidence."""
        scale = load_scale("paper")
        specs = [load_spec(name) for name in names or ("shown", "drawn")]
        return add(specs, scale, open_source(runs or self.runs, scale), evidence or self.evidence)

    def page(self, name: str, runs: Path | None = None) -> Files:
        """Return the page of a spec from run folders, or from the evidence."""
        scale = load_scale("paper")
        return make_files(load_spec(name), scale, open_source(runs or self.tables / "evidence", scale))
