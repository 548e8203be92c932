"""Plans whose runs hold what other code has made."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_workers import behave
from made_plans import FAST, calls
from run_folders import done_run

import sweeps.__main__
from repro.files import read_json, write_json
from repro.runs import checkpoint
from repro.runs.recorded import run_code
from slurm.jobs.states import RunView
from slurm.jobs.submission import choose
from sweeps.__main__ import main
from sweeps.local.progress import Outcome
from sweeps.local.queue import run_in_this_process, run_missing
from sweeps.plan.plan import Plan, make_plan, planned_runs
from sweeps.spec.load import load_spec

SPEC = """\
title: A graph
kind: table
common: {dataset: digits, optim.epochs: 1, model: digits_cnn, model.width: 4}
runs:
  folds:
    set: {method: class_labels, split: fold, split.num_folds: 2}
    each: {split.fold: [0, 1]}
rows:
  - {label: One-hot, set: {method: one_hot, split: full}}
  - {label: Replay, set: {method: replay, split: full}, inputs: {labels: folds}}
columns:
  - {label: A}
repeats: {seed: [0]}
value: {metric: test/accuracy, epoch: last}
"""

FILE = "repro/engine/step.py"


class Suite:
    """A spec with a run of one-hot labels and a replay of two folds, and its runs folder."""

    def __init__(self, folder: Path, composed: Plan) -> None:
        self.path, self.runs, self._composed = composed.specs[0].path, folder, composed
        self.one_hot, self.fold, self.other_fold, self.replay = self.plan().runs

    def plan(self) -> Plan:
        # A planned run has all that a node of the graph has.
        nodes: Any = self._composed.runs.values()
        return replace(self._composed, folder=self.runs, runs=planned_runs(nodes, self.runs))

    def fill(self) -> None:
        """Let every run be done by the present code."""
        for name, run in self.plan().runs.items():
            done_run(self.runs / name)
            write_json(self.runs / name / "code.json", run_code(run.fields, self.runs, inputs=run.inputs).document())

    def pretend_other_code(self, name: str) -> None:
        """Let a run be done by other code, and its readers have read it."""
        document = read_json(self.runs / name / "code.json")
        document["files"][FILE] = document["sha256"] = "0" * 64
        write_json(self.runs / name / "code.json", document)
        for path in self.runs.glob("*/code.json"):
            reader = read_json(path)
            if name in reader.get("inputs", {}):
                reader["inputs"][name] = "0" * 64
                write_json(path, reader)

    def states(self) -> dict[str, str]:
        return {name: run.state for name, run in self.plan().runs.items()}

    def run(self, changed_code: str = "refuse", *, retry: bool = False) -> Outcome:
        """Run what is missing by workers that train nothing."""
        plan = self.plan()
        runs = {name: replace(run, overrides=(f"name={name}", "behave=done")) for name, run in plan.runs.items()}
        return run_missing(replace(plan, runs=runs), jobs=1, retry=retry, changed_code=changed_code, worker=behave, preload=FAST)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    path = tmp_path_factory.mktemp("spec") / "tried.yaml"
    path.write_text(SPEC)
    return make_plan([load_spec(str(path))], path.parent)


@pytest.fixture
def suite(tmp_path: Path, composed: Plan) -> Suite:
    return Suite(tmp_path, composed)


def test_the_same_code_is_done(suite: Suite) -> None:
    suite.fill()
    assert set(suite.states().values()) == {"done"}


def test_other_code_is_a_state_of_its_own_and_named_with_what_reads_it(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    (suite.runs / suite.one_hot / "code.json").unlink()
    assert suite.states() == {suite.one_hot: "done", suite.fold: "changed", suite.other_fold: "done", suite.replay: "changed"}
    assert main(["plan", str(suite.path), "--runs", str(suite.runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "tried: 2 cells, 4 runs, 2 changed, 2 done"
    assert any(line.startswith("other code: tried: ") and line.endswith(f"({suite.fold}): {FILE}") for line in lines)
    assert any(line.endswith(f"({suite.replay}): input {suite.fold}") for line in lines)
    assert any("--changed-code again" in line and "--changed-code equal" in line for line in lines)
    assert "taken as they are, since they do not say which code made them: 1 run" in lines
    assert main(["plan", str(suite.path), "--runs", str(suite.runs), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["totals"]["changed"] == 2
    assert {run["run_id"]: run["changed"] for run in document["runs"] if "changed" in run} == {
        suite.fold: [FILE],
        suite.replay: [f"input {suite.fold}"],
    }
    assert main(["status", str(suite.path), "--runs", str(suite.runs)]) == 0
    assert "0/1 1 changed" in capsys.readouterr().out


def test_a_run_refuses_and_goes_on_with_the_others(suite: Suite, capsys: pytest.CaptureFixture[str]) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    for name in (suite.one_hot, suite.replay):
        for path in (suite.runs / name).iterdir():
            path.unlink()
    outcome = suite.run()
    assert outcome.done == {suite.one_hot, suite.other_fold}
    assert outcome.changed == {suite.fold: FILE}
    assert outcome.skipped == {suite.replay: f"its input {suite.fold} was made by other code"}
    assert outcome.exit_code == 1
    assert [call[0] for call in calls(suite.runs)] == [suite.one_hot]
    sweeps.__main__.print_outcome(suite.plan(), outcome)
    said = capsys.readouterr().err
    assert f"other code, left alone: {suite.plan().runs[suite.fold].place} ({suite.fold}): {FILE}" in said
    assert "--changed-code equal" in said


def test_again_trains_it_and_what_read_it_and_keeps_the_old_folders(suite: Suite) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    outcome = suite.run("again")
    assert (outcome.exit_code, outcome.changed) == (0, {})
    assert sorted(call[0] for call in calls(suite.runs)) == sorted([suite.fold, suite.replay])
    assert sorted(path.name for path in (suite.runs / "aside").iterdir()) == sorted([f"{suite.fold}.1", f"{suite.replay}.1"])
    assert (suite.runs / "aside" / f"{suite.fold}.1" / "final.json").exists()


def test_equal_is_noted_without_training_and_holds_for_what_read_it(suite: Suite) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    outcome = suite.run("equal")
    assert (outcome.exit_code, len(outcome.done)) == (0, 4)
    assert calls(suite.runs) == []
    assert len(read_json(suite.runs / suite.fold / "code.json")["equal_to"]) == 1
    assert "equal_to" not in read_json(suite.runs / suite.replay / "code.json")
    assert set(suite.states().values()) == {"done"}


def test_an_input_that_was_trained_again_makes_its_reader_another(suite: Suite) -> None:
    suite.fill()
    document = read_json(suite.runs / suite.fold / "code.json")
    write_json(suite.runs / suite.fold / "code.json", document | {"sha256": "1" * 64})
    assert suite.plan().runs[suite.replay].changed == (f"input {suite.fold}",)


@pytest.mark.parametrize(("state", "planned"), [("preempted", "changed"), ("failed", "failed"), ("queued", "changed")])
def test_an_unfinished_run_of_other_code_is_left_alone(suite: Suite, state: str, planned: str) -> None:
    suite.fill()
    suite.pretend_other_code(suite.one_hot)
    write_json(suite.runs / suite.one_hot / "status.json", {"state": state, "error": "stopped", "attempt": 1})
    # Without a state to go on from, it begins anew, and nothing of the other code is left.
    assert suite.states()[suite.one_hot] == state
    (suite.runs / suite.one_hot / checkpoint.NAMES[0]).write_bytes(b"x")
    assert suite.states()[suite.one_hot] == planned
    outcome = suite.run(retry=True)
    assert outcome.changed == {suite.one_hot: FILE}
    assert suite.run("again", retry=True).exit_code == 0
    assert (suite.runs / "aside" / f"{suite.one_hot}.1" / checkpoint.NAMES[0]).exists()


def test_the_choice_is_given_on_the_command_line(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def run_missing(plan: Plan, **settings: object) -> Outcome:
        asked.append(settings["changed_code"])
        return Outcome()

    monkeypatch.setattr(sweeps.__main__, "run_missing", run_missing)
    monkeypatch.setattr(sweeps.__main__, "start_server", lambda: None)
    for more in ([], ["--changed-code", "again"], ["--changed-code", "equal"]):
        main(["run", str(suite.path), "--runs", str(suite.runs), *more])
    assert asked == ["refuse", "again", "equal"]


class _Cluster:
    """What SLURM says when every run has ended."""

    def views(self, names: Iterable[str], inputs: object) -> dict[str, RunView]:
        return {name: RunView(name, "done") for name in names}


def test_a_cluster_is_sent_none_of_it(suite: Suite) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    site: Any = SimpleNamespace(array_limit=None)
    cluster: Any = _Cluster()
    chosen = choose(suite.plan(), site, cluster, retry=False, limit=None)
    assert chosen.send == []
    assert chosen.left.keys() == {suite.fold, suite.replay}
    assert chosen.left[suite.fold].startswith(f"made by code that differs in {FILE}; ")


def test_training_in_this_process_leaves_it_alone(suite: Suite) -> None:
    suite.fill()
    suite.pretend_other_code(suite.fold)
    outcome = run_in_this_process(suite.plan(), retry=False)
    assert (outcome.changed, outcome.exit_code) == ({suite.fold: FILE, suite.replay: f"input {suite.fold}"}, 1)
    assert outcome.done == {suite.one_hot, suite.other_fold}
