"""Variables of the caller do not decide what a cluster file decides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from submitit.slurm.slurm import SlurmExecutor

import slurm.jobs.sbatch
from repro.errors import UserError
from slurm.cluster import load_cluster
from slurm.jobs import queue
from slurm.jobs.batches import Batch
from slurm.jobs.submission import Sent
from slurm.report import print_sent

GIVEN = ("SBATCH_QOS", "SRUN_DEBUG", "SLURMD_NODENAME", "SLURM_ARRAY_JOB_ID", "SLURM_CLUSTERS", "SQUEUE_PARTITION")
KEPT = ("SLURM_CONF", "SLURM_JWT", "REPRO_DATA")


@pytest.fixture(autouse=True)
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("SLURM", "SBATCH_", "SRUN_", "SQUEUE_")):
            monkeypatch.delenv(name)
    for name in (*GIVEN, *KEPT):
        monkeypatch.setenv(name, "x")


def test_commands_are_called_without_them() -> None:
    seen = queue.call(["env"])
    assert [name for name in (*GIVEN, *KEPT) if f"{name}=" in seen] == list(KEPT)


def test_sbatch_is_called_without_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[str]] = []

    def refuse(self: Any, *given: Any) -> Any:
        seen.append({name for name in (*GIVEN, *KEPT) if name in os.environ})
        raise OSError("refused")

    monkeypatch.setattr(SlurmExecutor, "affinity", lambda *given: 2)
    monkeypatch.setattr(SlurmExecutor, "_internal_process_submissions", refuse)
    (tmp_path / "site.yaml").write_text('kind: slurm\npartition: gpu\ntime: {default: "12:00:00"}\nmemory: {default: 32G}\n')
    batch = Batch("table", "net", (("run",),), ())
    with pytest.raises(UserError):
        slurm.jobs.sbatch.send(load_cluster(str(tmp_path / "site.yaml")), batch, [lambda: "done"], tmp_path, tmp_path)
    assert seen == [set(KEPT)]
    assert all(name in os.environ for name in GIVEN)


def test_they_are_named_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_sent(Sent(jobs=["7"], runs=1))
    assert capsys.readouterr().out.splitlines()[0] == f"not given to sbatch, so that the cluster file decides: {', '.join(sorted(GIVEN))}"
