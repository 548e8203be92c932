"""Which runs are sent, in which arrays, and what these wait for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import slurm.submit
from slurm.cluster import Cluster, ModelResources
from slurm.states import Jobs, Queue, View
from slurm.submit import Batch, sender, walk
from sweeps.plan import Plan, PlannedRun
from sweeps.scales import load_scale

SITE = Cluster(partition="main", time="00:10:00", memory="3G")  # type: ignore[arg-type]


def planned(name: str, inputs: str = "", **more: Any) -> PlannedRun:
    fields = {"method.name": "replay" if inputs else "labels", "model.name": more.pop("model", "net")}
    return PlannedRun(name, (f"name={name}",), fields, tuple(inputs), int(bool(inputs)), "missing", f"spec: {name}", ("spec",), **more)


#: Two folds for each of two finals, and another model.
RUNS = [planned("a"), planned("b"), planned("c"), planned("d"), planned("x", model="big"), planned("y", "ab"), planned("z", "cd")]


class Walk:
    """What a walk over ``runs`` sends: arrays as ``abc`` with what they wait for; the states of some runs are given."""

    def __init__(self, folder: Path, runs: Sequence[PlannedRun] = RUNS, site: Cluster = SITE, jobs: int = 0, **states: View) -> None:
        queue = Queue("hal", 4, dict.fromkeys(map(str, range(100, 100 + jobs)), ("RUNNING", "")))
        self.states = states
        self.jobs = Jobs(folder, queue)
        self.jobs.view = lambda name: states.get(name, View("missing"))  # type: ignore[method-assign]
        self.plan = Plan(folder, (), load_scale("paper"), {run.run_id: run for run in runs}, [])
        self.site = site
        self.batches: list[Batch] = []

    def send(self, batch: Batch) -> list[str]:
        self.batches.append(batch)
        return [f"{len(self.batches)}_{index}" for index in range(len(batch.tasks))]

    def __call__(self, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
        self.left = walk(self.plan, self.jobs, self.site, self.send, **options)
        return [(" ".join("".join(task) for task in batch.tasks), batch.after) for batch in self.batches]


def test_a_stage_is_an_array_and_each_final_waits_for_its_own(tmp_path: Path) -> None:
    tried = Walk(tmp_path)
    assert tried() == [("a b c d", ()), ("x", ()), ("y", ("1_0", "1_1")), ("z", ("1_2", "1_3"))]
    assert [batch.name for batch in tried.batches] == ["spec-labels-net", "spec-labels-big", "spec-replay-net", "spec-replay-net"]
    assert tried.left == {}


def test_what_is_done_or_in_the_queue_is_not_sent_and_is_waited_for(tmp_path: Path) -> None:
    tried = Walk(tmp_path, a=View("done"), b=View("running", "70_3"), x=View("queued", "71"))
    assert tried(after=("5",)) == [("c d", ("5",)), ("y", ("70_3", "5")), ("z", ("1_0", "1_1", "5"))]


def test_arrays_end_at_the_limit_of_slurm_and_runs_share_a_gpu(tmp_path: Path) -> None:
    runs = [planned(name) for name in "abcdefghij"]
    assert [tasks for tasks, _ in Walk(tmp_path, runs)()] == ["a b c d", "e f g h", "i j"]
    site = SITE.model_copy(update={"by_model": {"net": ModelResources(runs_per_gpu=3)}})
    assert [tasks for tasks, _ in Walk(tmp_path, runs, site)()] == ["abc def ghi j"]


def test_no_more_jobs_than_max_jobs(tmp_path: Path) -> None:
    tried = Walk(tmp_path, site=SITE.model_copy(update={"max_jobs": 5}), jobs=3)
    assert [tasks for tasks, _ in tried()] == ["a b", "y"][:1]
    assert {name: why for name, why in tried.left.items() if "max_jobs allows, 5" in why}.keys() == set("cdxy")
    assert tried.left["z"] == "its input c is not submitted"


@pytest.mark.parametrize("state", ["failed", "corrupted"])
def test_what_has_failed_waits_for_a_retry_and_its_reader_with_it(tmp_path: Path, state: str) -> None:
    """The reader that waits in vain for the job that has failed is sent again, to wait for the new one."""
    states = {"a": View(state), **dict.fromkeys("bcdxz", View("done")), "y": View("queued", "9")}
    tried = Walk(tmp_path, **states)
    assert tried() == []
    assert tried.left == {"a": f"{state}; `retry` trains it again"}
    assert Walk(tmp_path, **states)(retry=True) == [("a", ()), ("y", ("1_0",))]


@pytest.mark.parametrize("state", [View("running"), View("elsewhere", why="job 7 of ann on hal")])
def test_what_somebody_else_trains_is_left_alone(tmp_path: Path, state: View) -> None:
    tried = Walk(tmp_path, c=state)
    assert tried()[-1] == ("y", ("1_0", "1_1"))
    assert tried.left == {"c": state.why or "a process trains it that is no job of yours", "z": "its input c is not submitted"}


def test_runs_of_a_different_version_of_the_code(tmp_path: Path) -> None:
    runs = [replace(RUNS[0], changed=True), planned("y", "a")]
    tried = Walk(tmp_path, runs, a=View("done"))
    assert tried() == []
    assert "--changed-code retrain or accept" in tried.left["a"]
    assert Walk(tmp_path, runs, a=View("done"))(changed_code="accept") == [("y", ())]
    assert Walk(tmp_path, runs, a=View("done"))(changed_code="retrain") == [("a", ()), ("y", ("1_0",))]


def test_a_batch_is_noted_and_replaces_a_job_that_waits_in_vain(tmp_path: Path, answers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(slurm.submit, "call", answers)
    monkeypatch.setattr(slurm.submit, "sbatch", lambda batch, runs, overrides, *more: seen.append(overrides) or ["7_0", "7_1"])
    tried = Walk(tmp_path, y=View("queued", "9"))
    batch = Batch("spec", SITE, (("a", "y"), ("b",)))
    assert sender(tried.plan, tried.jobs, tmp_path, "accept")(batch) == ["7_0", "7_1"]
    assert answers.calls == [("scancel", "9")]
    assert seen[0]["a"] == ["name=a", "exec.threads=1", "exec.device=cuda", "exec.on_changed_code=accept"]
    jobs = Jobs(tmp_path, Queue("hal", 4, dict.fromkeys(("7_0", "7_1"), ("RUNNING", ""))))
    assert [jobs.view(name).job for name in "ayb"] == ["7_0", "7_0", "7_1"]
