"""Arrays are cut to what SLURM takes, and only where it says that they are too many."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_plans import plan_of
from submitit.core.utils import FailedJobError
from submitit.slurm.slurm import SlurmExecutor

import slurm.jobs.sbatch
import slurm.jobs.states
import slurm.jobs.submission
from repro.errors import UserError
from slurm.cluster import Cluster, load_cluster
from slurm.jobs.batches import Batch
from slurm.jobs.sbatch import TooManyError
from slurm.jobs.submission import Sent

POLICY = "Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"


def load(folder: Path, more: str = "") -> Cluster:
    path = folder / "site.yaml"
    path.write_text(f'kind: slurm\npartition: gpu\ntime: {{default: "12:00:00"}}\nmemory: {{default: 32G}}\n{more}')
    return load_cluster(str(path))


@pytest.mark.parametrize(
    ("said", "too_many"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: {POLICY}", True),
        (f"sbatch: error: AssocGrpSubmitJobsLimit\nsbatch: error: {POLICY}", True),
        (f"sbatch: error: {POLICY}", True),
        ("sbatch: error: Batch job submission failed: Invalid job array specification", True),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit\nsbatch: error: {POLICY}", False),
        (f"sbatch: error: AssocMaxGRESPerJob\nsbatch: error: {POLICY}", False),
        ("sbatch: error: Batch job submission failed: Invalid qos specification", False),
    ],
)
def test_which_refusals_ask_for_fewer_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, too_many: bool) -> None:
    def refuse(self: Any, *given: Any) -> Any:
        raise FailedJobError(said)

    monkeypatch.setattr(SlurmExecutor, "affinity", lambda *given: 2)
    monkeypatch.setattr(SlurmExecutor, "_internal_process_submissions", refuse)
    with pytest.raises(UserError) as caught:
        slurm.jobs.sbatch.send(load(tmp_path), Batch("table", "net", (("run",),), ()), [lambda: "done"], tmp_path, tmp_path)
    assert isinstance(caught.value, TooManyError) == too_many


def submitted(folder: Path, monkeypatch: pytest.MonkeyPatch, *, runs: int, array: int, room: int) -> tuple[Sent, list[int]]:
    """Submit so many runs to a SLURM that takes arrays up to a size while there is room; return also the sizes of all calls."""
    calls: list[int] = []

    def send(site: Any, batch: Any, work: Sequence[Any], *more: Any) -> list[str]:
        nonlocal room
        calls.append(len(work))
        if len(work) > min(array, room):
            raise TooManyError("too many")
        room -= len(work)
        return [f"{len(calls)}_{number}" for number, _ in enumerate(work)]

    monkeypatch.setattr(slurm.jobs.sbatch, "send", send)
    monkeypatch.setattr(slurm.jobs.states, "read_queue", dict)
    monkeypatch.setattr(slurm.jobs.submission.queue, "read_queue", dict)
    monkeypatch.setattr(slurm.jobs.states, "this_cluster", lambda: "here")
    plan = plan_of(folder / "runs", **{f"r{number}": "missing" for number in range(runs)})
    for run in plan.runs.values():
        run.fields.update({"method.name": "one_hot", "model.name": "digits_cnn"})
    sent = slurm.jobs.submission.send(plan, load(folder), folder, {}, retry=False, limit=None)
    assert len(list((folder / "runs" / "slurm").glob("*/batch.json"))) == len(sent.jobs), "nothing is left of what was refused"
    return sent, calls


@pytest.mark.parametrize(("array", "room", "taken"), [(1000, 70, 70), (30, 1000, 100), (7, 50, 50), (1000, 1, 1)])
def test_what_fits_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: int, room: int, taken: int) -> None:
    sent, calls = submitted(tmp_path, monkeypatch, runs=100, array=array, room=room)
    assert (sent.runs, len(sent.waiting), sent.full, sent.error) == (taken, 100 - taken, "too many" if taken < 100 else "", None)
    assert len(calls) <= 14 if array == 1000 else len(calls) <= 2 * 100 // array + 14


def test_a_single_job_that_is_refused_while_nothing_runs_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent, _ = submitted(tmp_path, monkeypatch, runs=3, array=10, room=0)
    assert (sent.runs, sent.error, sent.full) == (0, "too many", "")
