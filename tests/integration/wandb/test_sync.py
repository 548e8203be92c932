"""``python -m repro.tracker sync`` against the loopback backend."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Backend
from real_runs import stopped
from short_runs import EXPECTED, offline_epochs, settings, train

from repro.config.compose import compose
from repro.tracker.__main__ import main
from repro.tracker.mirror import upload_lock
from repro.tracker.server import Remote, Server


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name, symlinks=True))


Command = Callable[..., str]


@pytest.fixture
def sync(capsys: pytest.CaptureFixture[str]) -> Command:
    """``python -m repro.tracker sync`` in this process: it ends with ``code``, and what it prints has the ``words``."""

    def command(*arguments: str | Path, code: int = 0, words: str = "") -> str:
        ended = main(["sync", *map(str, arguments)])
        printed = "".join(capsys.readouterr())
        assert (ended, words in printed) == (code, True), printed
        return printed

    return command


def test_twice_sends_once(folder: Path, backend: Backend, sync: Command) -> None:
    sync(folder.parent, words=f"{folder.name}: synced (6 rows on {backend.url}/tester/soft-labels-repro)")
    stored = backend.run(folder.name)
    assert (stored.epochs(), stored.state) == (EXPECTED, "finished")
    # Pictures at every second epoch and the last.
    assert [row["epoch"] for row in stored.rows() if "label/heatmap" in row] == [0, 2, 4, 5]
    assert sum(name.endswith(".png") for name in stored.files) == 4
    before = len(backend.requests)
    assert sync(folder.parent) == f"{folder.name}: up to date\n"
    # The ledger answers; only who we are is asked.
    assert not {"Run", "UpsertBucket"} & set(backend.requests[before:])
    (folder / "sync.json").write_text("{ torn")
    sync(folder, words="up to date (6 rows")
    assert stored.epochs() == EXPECTED


@pytest.mark.parametrize(("status", "message"), [(403, "6 rows are not there; the same command resumes"), (500, "W&B failed: ")])
def test_an_upload_that_fails_is_completed_by_the_next(
    status: int, message: str, folder: Path, backend: Backend, sync: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client ends with success when every row was refused, and tries for ever while the server answers 500."""
    backend.fault("file_stream", status=status)
    monkeypatch.setattr("repro.tracker.sync.UPLOAD_TIMEOUT_S", 5 if status == 500 else 300)
    sync(folder, code=1, words=message)
    assert backend.run(folder.name).epochs() == []
    assert not (folder / "sync.json").exists()
    backend.faults.clear()
    sync(folder, words="synced")
    assert backend.run(folder.name).epochs() == EXPECTED


def test_a_server_that_shows_rows_late(folder: Path, backend: Backend, sync: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.tracker.sync.SETTLING_S", (0.0, 0.0))
    looks = []
    look = Server.look

    def late(self: Server, run_id: str) -> Remote | None:
        looks.append(run_id)
        remote = look(self, run_id)
        return replace(remote, rows=remote.rows[:2]) if remote and len(looks) < 4 else remote

    monkeypatch.setattr(Server, "look", late)
    sync(folder)
    assert len(looks) == 4


def test_a_run_goes_to_its_own_project(backend: Backend, tmp_path: Path, sync: Command) -> None:
    folder = train(tmp_path / "runs", "offline", "tracker.project=other", epochs=1)
    sync(folder)
    assert backend.run(folder.name, "other").epochs() == [0, 1]


def test_two_at_once(folder: Path, backend: Backend, tmp_path: Path, sync: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither another upload nor an online attempt sends a run that is being sent."""
    with upload_lock(folder):
        sync(folder, words="another process is sending it")
    other = tmp_path / "online" / folder.name
    (other / "wandb").mkdir(parents=True)
    monkeypatch.setattr("repro.tracker.mirror._UPLOAD_WAIT_S", 0.0)
    with upload_lock(other):
        assert train(tmp_path / "online", "online", "tracker.picture_epochs=2") == other
    assert offline_epochs(other) == EXPECTED
    assert backend.runs == {}


def test_mistakes(folder: Path, backend: Backend, sync: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    sync(folder.parent / "elsewhere", code=2, words="is no run folder, and none lies in it")
    (folder / "final.json").write_text("{}")
    sync(folder, code=1, words="failed (")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("repro.tracker.server.CONNECT_S", 2)
    sync(folder, code=2, words="W&B cannot be used")


def test_a_spoilt_run_is_sent_again(folder: Path, backend: Backend, sync: Command) -> None:
    sync(folder)
    stored = backend.run(folder.name)
    whole = list(stored.history)
    accuracy = json.dumps(stored.rows()[2] | {"test/accuracy": 0.125})
    for spoilt, message in (
        ([*whole[:2], accuracy, *whole[3:]], "epoch 2: test/accuracy is 0.125, not"),
        ([*whole[:3], *whole[2:]], "epoch 2 where epoch 3 should stand"),
        ([*whole[:2], *whole[3:]], "epoch 3 where epoch 2 should stand"),
        ([*whole, json.dumps({"epoch": 6, "_step": 6})], "7 rows, and metrics.jsonl has 6"),
    ):
        stored.history[:] = spoilt
        (folder / "sync.json").unlink(missing_ok=True)
        assert "`sync --project OTHER`" in sync(folder, code=1, words=message)
        assert stored.history == spoilt
    sync(folder, "--project", "other", words="synced (6 rows")
    assert backend.run(folder.name, "other").epochs() == EXPECTED


def test_an_online_attempt_continues_what_was_synced(backend: Backend, tmp_path: Path, sync: Command) -> None:
    """Offline, stopped, synced, then online: the server's last epoch is where the second attempt begins."""
    folder = stopped(compose(settings(tmp_path / "runs", "offline")), epoch=2)
    assert "3 rows" in sync(folder, words="the run is preempted")
    assert backend.run(folder.name).epochs() == [0, 1, 2]
    assert train(tmp_path / "runs", "auto") == folder
    assert [row["job/attempt"] for row in backend.run(folder.name).rows()] == [1, 1, 1, 2, 2, 2]
    sync(folder)
    assert (backend.run(folder.name).epochs(), backend.run(folder.name).state) == (EXPECTED, "finished")
    assert backend.unknown == []
