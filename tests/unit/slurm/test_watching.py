"""Logs of runs and jobs, and a status that stays."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_slurm_states import Site

from slurm.__main__ import main


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)


def test_logs_by_run_and_by_job(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    followed: list[str] = []
    (site.runs / "logs").mkdir()
    log, out = site.runs / "logs" / "run.log", site.ledger.folder / site.token / "7_0_log.out"
    log.write_text("epoch 1/3\n")
    out.write_text("job 7 on node1\n")
    for name in ("run", "7"):
        assert main(["logs", name, "--runs", str(site.runs)]) == 0
        assert capsys.readouterr().out == f"==> {log} <==\nepoch 1/3\n==> {out} <==\njob 7 on node1\n"
    monkeypatch.setattr("slurm.watch.os.execvp", lambda program, words: followed.extend(words))
    assert main(["logs", "7", "--follow", "--runs", str(site.runs)]) == 0
    assert followed == ["tail", "-v", "-n", "40", "-F", str(log), str(out)]
    assert main(["logs", "8", "--runs", str(site.runs)]) == 2


def test_watching_ends_with_ctrl_c(site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("slurm.__main__.time.sleep", sleep)
    site.planned()
    assert main(["status", "--watch", "--runs", str(site.runs)]) == 130
    assert capsys.readouterr().out.count("table: A table") == 2
