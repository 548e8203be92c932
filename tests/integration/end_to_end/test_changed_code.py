"""Code that is edited between runs, and while the server lives that the workers of a sweep are forked from."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import repro
from repro.files import read_json

ROOT = Path(repro.__file__).parents[1]

RUN = ["method=one_hot", "dataset=digits", "seed=0", "model.width=4", "optim.epochs=1", "optim.milestones=[]", "tracker=none"]


class Copy:
    """A copy of the suite that a test may edit."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder / "suite", folder / "runs"
        for package in ("repro", "sweeps"):
            shutil.copytree(ROOT / package, self.folder / package, ignore=shutil.ignore_patterns("__pycache__"))
        self.method = self.folder / "repro" / "methods" / "fixed" / "one_hot.py"

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"PYTHONPATH": str(self.folder), "XDG_CACHE_HOME": str(self.folder / "cache"), "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *command], cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def train(self, *more: str) -> subprocess.CompletedProcess[str]:
        return self.call("-m", "repro", *RUN, f"paths.runs={self.runs}", *more)

    def document(self, name: str) -> Any:
        (folder,) = self.runs.glob("one_hot-*")
        return read_json(folder / name)


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    return Copy(tmp_path)


WARM = """
import json, multiprocessing, pathlib, sys, time
from sweeps.local.worker import enter, start_server, train

if __name__ == "__main__":
    runs, method, overrides = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    runs.mkdir()
    context = start_server()
    # The first worker is forked after the server's imports.
    first = context.Process(target=enter, args=(train, ["method=none_such"], runs / "first.log"))
    first.start(), first.join()
    method.write_text(method.read_text() + "\\nFACTOR = 2.0\\n")
    worker = context.Process(target=enter, args=(train, overrides, runs / "worker.log"))
    worker.start(), worker.join()
    print(json.dumps([first.exitcode, worker.exitcode]))
"""


def test_a_server_that_imported_before_an_edit_records_what_it_trains_with(copy: Copy) -> None:
    (copy.folder / "warm.py").write_text(WARM)
    before = copy.call(
        "-c",
        "from repro.runs.code import code_of; import json; print(json.dumps(dict(code_of(dict("
        "method='one_hot', dataset='digits', model='digits_cnn', noise='none')).files)))",
    )
    result = copy.call("warm.py", str(copy.runs), str(copy.method), *RUN, f"paths.runs={copy.runs}", "exec.threads=1")
    assert json.loads(result.stdout) == [2, 0], result.stderr + (copy.runs / "worker.log").read_text()
    log = (copy.runs / "worker.log").read_text()
    assert "edited since this process began, and used as it was then: repro/methods/fixed/one_hot.py." in log
    assert copy.document("code.json")["files"] == json.loads(before.stdout)
    # A new process has the edit, and does not take the run for its own.
    assert "these differ: repro/methods/fixed/one_hot.py." in copy.train().stderr


STATES = """
import importlib, json, pathlib, subprocess, sys
from repro.config import registry
from repro.runs import provenance

checkout = pathlib.Path.cwd()
git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org"]
preset = checkout / "repro" / "conf" / "optim" / "mine.yaml"
found = {}

def state(name, *presets):
    provenance._checkout.cache_clear(), provenance._all_files.cache_clear()
    found[name] = provenance.git_state(presets)["dirty_sha256"]

registry.choices("method")
state("none", checkout / "repro" / "conf" / "train.yaml")
for command in (["init", "-q"], ["add", "repro"], ["commit", "-qm", "x"]):
    subprocess.run([*git, *command], check=True)
state("clean", checkout / "repro" / "conf" / "train.yaml")
preset.write_text("name: mine\\n")
(checkout / "repro" / "never_imported.py").write_text("x = 1\\n")
state("unused")
state("preset", preset)
(checkout / "repro" / "methods" / "mine.py").write_text("FACTOR = 1.0\\n")
importlib.invalidate_caches()
importlib.import_module("repro.methods.mine")
state("untracked")
(checkout / ".gitignore").write_text("mine.py\\n")
state("ignored")
(checkout / "repro" / "methods" / "fixed" / "focal.py").open("a").write("# edited\\n")
state("unstaged")
subprocess.run([*git, "add", "repro/methods/fixed/focal.py"], check=True)
state("staged")
for name in ("slurm/clusters/mine.yaml", "sweeps/tuned/mine.yaml"):
    (checkout / name).parent.mkdir(parents=True, exist_ok=True)
    (checkout / name).write_text("kind: slurm\\n")
    subprocess.run([*git, "add", "-f", name], check=True)
    state(name)
print(json.dumps(found))
"""


def test_what_a_commit_lacks(copy: Copy) -> None:
    result = copy.call("-c", STATES)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.pop("clean") is None
    assert found.pop("unused") is None
    assert found["untracked"] == found.pop("ignored")
    assert found["unstaged"] == found.pop("staged") == found.pop("slurm/clusters/mine.yaml") == found.pop("sweeps/tuned/mine.yaml")
    # Outside of a checkout, all of the code is what no commit has.
    assert found.keys() == {"none", "preset", "untracked", "unstaged"}
    assert None not in found.values()
    assert len(set(found.values())) == 4
