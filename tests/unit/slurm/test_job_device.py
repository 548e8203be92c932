"""On what the runs of a job train."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from made_plans import plan_of

import slurm.jobs.sbatch
import slurm.jobs.states
import slurm.jobs.submission
from slurm.cluster import load_cluster
from slurm.jobs.job import RunJob

SITE = 'kind: slurm\npartition: gpu\ntime: {{default: "12:00:00"}}\nmemory: {{default: 32G}}\ngpu: {gpu}\nsettings: {settings}\n'


@pytest.mark.parametrize(
    ("gpu", "settings", "device"),
    [("any", "{}", "cuda"), ("a100", "{exec: fast}", "cuda"), ("none", "{}", None), ("any", "{exec.device: cpu}", "cpu")],
)
def test_a_job_with_a_gpu_trains_on_cuda(
    tmp_path: Path, gpu: str, settings: str, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node whose CUDA is broken then ends its jobs with one line, and does not train on its processor for days."""
    sent: list[RunJob] = []

    def send(site: Any, batch: Any, work: Sequence[RunJob], *more: Any) -> list[str]:
        sent.extend(work)
        return [str(number) for number, _ in enumerate(work)]

    monkeypatch.setattr(slurm.jobs.sbatch, "send", send)
    monkeypatch.setattr(slurm.jobs.states, "read_queue", dict)
    monkeypatch.setattr(slurm.jobs.states, "this_cluster", lambda: "here")
    path = tmp_path / "site.yaml"
    path.write_text(SITE.format(gpu=gpu, settings=settings))
    plan = plan_of(tmp_path / "runs", a="done", b="done")
    for run in plan.runs.values():
        run.fields.update({"method.name": "one_hot", "model.name": "digits_cnn"})
    slurm.jobs.submission.send(plan, load_cluster(str(path)), tmp_path, {}, retry=False, limit=None)
    found = [item for job in sent for overrides in job.runs.values() for item in overrides if item.startswith("exec.device=")]
    assert found == ([] if device is None else [f"exec.device={device}"] * 2)
