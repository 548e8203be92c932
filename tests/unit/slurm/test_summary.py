"""What accounting says of jobs that are over, by lines as sacct prints them."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_slurm_states import Site

import slurm.jobs.queue
import slurm.watch
from slurm.__main__ import main
from slurm.jobs.queue import NoAnswerError, Used, read_usage

NAME = "table-m-net"
#: An attempt that was requeued and the one after it, an old job with the same id, one that runs, and one that never began.
LINES = f"""\
7|{NAME}|PREEMPTED|3600|4|02:00:00|billing=4,cpu=4,gres/gpu=1,mem=8192M,node=1||
7.batch|batch|CANCELLED|3600|4|00:01.500||10.53M|cpu=00:00:01,mem=10.53M
7.0|python|CANCELLED|3600|4|01:59:58||2048.00M|cpu=01:59:58,gres/gpumem=900M,gres/gpuutil=40,mem=2048M
7|{NAME}|COMPLETED|7200|4|1-02:00:00|billing=4,cpu=4,gres/gpu=1,mem=8192M,node=1||
7.0|python|COMPLETED|7200|4|00:30.5||3072.00M|cpu=00:00:30,gres/gpuutil=80
7|another|COMPLETED|100|1|00:10|cpu=1,mem=100M||
7.0|python|COMPLETED|100|1|00:10||99999M|gres/gpuutil=99
8|{NAME}|RUNNING|50|1|00:00|cpu=1,mem=100M||
8.0|python|RUNNING|50|1|00:00||77777M|
9|{NAME}|CANCELLED by 1000|0|0|00:00|||
"""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []
    monkeypatch.setattr(slurm.jobs.queue, "call", lambda command: calls.append(command) or LINES)
    return calls


def test_every_attempt_counts_and_nothing_else(asked: list[list[str]]) -> None:
    first, second = read_usage(dict.fromkeys(("7", "8", "9"), NAME))
    assert first == Used(NAME, 3600.0, 4, 7200.0, 8192.0, 1, peak=2048.0, gpu_percent=40.0)
    assert second == Used(NAME, 7200.0, 4, 26 * 3600.0, 8192.0, 1, peak=3072.0, gpu_percent=80.0)
    (command,) = asked
    assert {"-D", "-n", "-P", "--units=M"} <= set(command)
    assert command[-1] == "7,8,9"


def test_what_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    site = Site(tmp_path, monkeypatch)
    site.planned()
    monkeypatch.setattr(slurm.watch, "this_cluster", lambda: "here")
    assert main(["summary", "table", "--runs", str(tmp_path)]) == 0
    title, line, total = (text.split() for text in capsys.readouterr().out.splitlines())
    assert title[:4] == ["array", "attempts", "hours", "GPU-hours"]
    # 2 and 26 hours of cores in 3 hours of 4 cores; 40 and 80 percent, of which the longer attempt counts more.
    assert line == [NAME, "2", "3.00", "3.00", "233%", "67%", "3,072", "of", "8,192", "MiB"]
    assert total == ["all", *line[1:]]
    assert main(["summary", "nothing", "--runs", str(tmp_path)]) == 2


def test_jobs_of_others_are_not_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Their ids may be those of this user's jobs here; and a SLURM without accounts says so."""
    site = Site(tmp_path, monkeypatch)
    site.planned()

    def refuse(command: list[str]) -> str:
        assert command[-1] != "7" or cluster == "here"
        raise NoAnswerError("sacct: Slurm accounting storage is disabled")

    monkeypatch.setattr(slurm.jobs.queue, "call", refuse)
    for cluster in ("there", "here"):
        monkeypatch.setattr(slurm.watch, "this_cluster", lambda cluster=cluster: cluster)
        assert main(["summary", "--runs", str(tmp_path)]) == 0
        assert capsys.readouterr().out.startswith("no accounts: ")
