"""A box with a folder of runs: submit, disturb, and look at what became of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import yaml
from box import Box, wait_until

from repro.config.compose import compose
from repro.files import read_json
from repro.training.run import execute
from slurm.__main__ import main
from slurm.states import Jobs, View, read_queue
from sweeps.plan import Plan, make_plan, override
from sweeps.scales import load_scale
from sweeps.spec import load_spec

SPEC = {
    "title": "Labels on digits",
    "kind": "table",
    "columns": [{"label": "Digits"}],
    "value": {"metric": "test/accuracy", "epoch": "last", "scale": "percent", "better": "higher"},
}
LEARNING = {"method": "instance_labels", "split": "fold", "method.learning_rate": 50.0}
REPLAY = {"label": "Ours", "set": {"method": "replay", "split": "full"}, "inputs": {"labels": "folds"}}
CLUSTER = {
    "partition": "main",
    "time": "00:30:00",
    "memory": "3G",
    "warning_s": 30,
    "settings": {"exec.device": "cpu", "exec.threads": 1, "exec.heartbeat_s": 0.5, "exec.checkpoint_interval_s": 0.3, "tracker": "none"},
}


def folds(number: int, *, seeds: int, epochs: int) -> dict[str, object]:
    """Return the spec of so many folds, which learn labels, and the final that replays them, for each of so many seeds."""
    runs = {"folds": {"set": LEARNING | {"split.num_folds": number}, "each": {"split.fold": list(range(number))}}}
    return spec(seeds, epochs) | {"runs": runs, "rows": [REPLAY]}


def plain(number: int, *, epochs: int) -> dict[str, object]:
    """Return the spec of so many runs that read nothing."""
    return spec(number, epochs) | {"rows": [{"label": "Plain", "set": {"method": "one_hot", "split": "full"}}]}


def spec(seeds: int, epochs: int) -> dict[str, object]:
    common = {"dataset": "digits", "model": "digits_cnn", "optim.epochs": epochs}
    return SPEC | {"common": common, "repeats": {"seed": list(range(seeds))}}


class Lab:
    """The one spec in it is ``trial``, the cluster is ``site``."""

    def __init__(self, box: Box, folder: Path, text: dict[str, object], **cluster: object) -> None:
        self.box = box
        self.folder = folder
        self.runs = folder / "runs"
        self.spec = folder / "trial.yaml"
        self.site = folder / "site.yaml"
        self.spec.write_text(yaml.dump(text))
        self.write_site(**cluster)
        self.plan: Plan = make_plan([load_spec(str(self.spec))], load_scale("paper"), self.runs)
        self.ids = list(self.plan.runs)

    def write_site(self, **changed: object) -> None:
        self.site.write_text(yaml.dump(CLUSTER | changed))

    def call(self, command: str, *more: str) -> int:
        return main([command, *more, "--cluster", str(self.site), "--runs", str(self.runs)])

    def submit(self, *more: str, command: str = "submit") -> int:
        return self.call(command, str(self.spec), "--yes", *more)

    def views(self) -> dict[str, View]:
        jobs = Jobs(self.runs, read_queue())
        return {name: jobs.view(name) for name in self.ids}

    def counts(self) -> dict[str, int]:
        return dict(Counter(view.state for view in self.views().values()))

    def status(self, name: str) -> dict[str, object]:
        path = self.runs / name / "status.json"
        return dict(read_json(path)) if path.exists() else {"state": "missing", "epoch": 0}

    def wait_for(self, name: str, *, epoch: int = 0) -> None:
        """Wait until a run trains."""
        wait_until(
            lambda: self.status(name)["state"] == "running" and int(str(self.status(name)["epoch"])) >= epoch, 120, f"{name} to train"
        )

    def wait_until_over(self) -> None:
        wait_until(lambda: not self.box.jobs(), 900, "the end of all jobs")

    def assert_done(self) -> None:
        """Each run is done, and has each of its rows once."""
        self.wait_until_over()
        assert self.counts() == {"done": len(self.ids)}
        for name in self.ids:
            rows = (self.runs / name / "metrics.jsonl").read_text().splitlines()
            assert [json.loads(row)["epoch"] for row in rows] == list(range(self.plan.runs[name].fields["optim.epochs"] + 1))

    def assert_undisturbed(self, name: str) -> None:
        """A run has the bytes of one that nobody has disturbed."""
        more = ["tracker=none", "exec.device=cpu", "exec.threads=1", override("paths.runs", str(self.folder / "undisturbed"))]
        other = execute(compose([*self.plan.runs[name].overrides, *more]))
        for file in ("final.json", "model.safetensors"):
            if (other / file).exists():
                assert (self.runs / name / file).read_bytes() == (other / file).read_bytes(), (name, file)
