"""``python -m repro.tracker sync`` against the loopback backend."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Backend
from real_runs import read_metrics, stopped
from short_runs import EPOCHS, offline_epochs, settings, train

from repro.config.compose import compose
from repro.files import read_json, write_json
from repro.runs.lock import HeldError
from repro.runs.state import now
from repro.tracker.__main__ import main
from repro.tracker.environment import upload_lock
from repro.tracker.server import Remote, Server

EXPECTED = list(range(EPOCHS + 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, to be copied."""
    import wandb

    wandb.teardown()
    return train(tmp_path_factory.mktemp("trained"), "offline", "tracker.picture_epochs=2")


@pytest.fixture
def folder(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name, symlinks=True))


def tracker(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run a verb in this process; return its exit code and what it printed."""
    code = main([str(argument) for argument in arguments])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_twice_sends_once(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = tracker(capsys, "sync", folder.parent)
    assert (code, "synced" in said) == (0, True), said
    stored = backend.run(folder.name)
    assert stored.epochs() == EXPECTED
    assert stored.state == "finished"
    # Pictures at every second epoch and the last.
    assert [row["epoch"] for row in stored.rows() if "label/heatmap" in row] == [0, 2, 4, 5]
    assert sum(name.endswith(".png") for name in stored.files) == 4
    before = len(backend.requests)
    assert tracker(capsys, "sync", folder.parent, "--quiet") == (0, "")
    # The ledger answers; only who we are is asked.
    assert not {"Run", "UpsertBucket"} & set(backend.requests[before:])
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "up to date" in said) == (0, True), said
    (folder / "sync.json").write_text("{ torn")
    code, said = tracker(capsys, "sync", folder)
    assert (code, "up to date" in said) == (0, True), said
    assert stored.epochs() == EXPECTED


def test_an_upload_that_says_it_worked(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """W&B's client ends with success when every row was refused; `sync` does not, and the next call completes."""
    backend.fault("file_stream", status=403)
    code, said = tracker(capsys, "sync", folder)
    assert (code, "failed" in said) == (1, True), said
    assert backend.run(folder.name).epochs() == []
    assert "mark" not in read_json(folder / "sync.json")
    backend.clear()
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name).epochs() == EXPECTED


def test_a_server_that_shows_rows_late(
    folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repro.tracker.sync.SETTLING_S", (0.0, 0.0))
    looks = []
    look = Server.look

    def late(self: Server, run_id: str) -> Remote | None:
        looks.append(run_id)
        found = look(self, run_id)
        return replace(found, rows=found.rows[:2]) if found and len(looks) < 4 else found

    monkeypatch.setattr(Server, "look", late)
    code, said = tracker(capsys, "sync", folder)
    assert code == 0, said
    assert len(looks) == 4


def test_a_run_goes_to_its_own_project(backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(tmp_path / "runs", "offline", "tracker.project=other", epochs=1)
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name, "other").epochs() == [0, 1]
    assert tracker(capsys, "sync", folder, "--project", "third")[0] == 0
    assert backend.run(folder.name, "third").epochs() == [0, 1]


def test_time_limit(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """The client would try for ever while the server answers 500."""
    backend.fault("file_stream", status=500)
    code, said = tracker(capsys, "sync", folder, "--limit", "5")
    assert (code, "W&B failed: " in said) == (1, True), said
    backend.clear()
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name).epochs() == EXPECTED


def test_a_run_that_is_under_way(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """Its rows so far are sent; what comes later joins without a row twice."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    status = read_json(folder / "status.json")
    final = (folder / "final.json").read_bytes()
    (folder / "final.json").unlink()
    # The last line is half written.
    (folder / "metrics.jsonl").write_text("".join(lines[:3]) + lines[3][:20])
    write_json(folder / "status.json", status | {"state": "running", "pid": os.getpid(), "heartbeat": now()})
    code, said = tracker(capsys, "sync", folder)
    assert (code, "3 rows" in said, "the run is running" in said) == (0, True, True), said
    assert backend.run(folder.name).epochs() == [0, 1, 2]
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "final.json").write_bytes(final)
    write_json(folder / "status.json", status)
    code, said = tracker(capsys, "sync", folder)
    assert code == 0, said
    assert backend.run(folder.name).epochs() == EXPECTED
    assert backend.run(folder.name).state == "finished"


def test_two_at_once(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    with upload_lock(folder):
        code, said = tracker(capsys, "sync", folder)
    assert (code, "another process is sending it" in said) == (0, True), said
    assert backend.runs == {}


def test_an_online_attempt_leaves_a_run_that_is_being_sent(backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def held(folder: Path, *, timeout_s: float) -> None:
        raise HeldError(folder)

    monkeypatch.setattr("repro.tracker.session.upload_lock", held)
    folder = train(tmp_path / "runs", "online")
    assert backend.runs == {}
    assert offline_epochs(folder) == EXPECTED


def test_no_server(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("repro.tracker.server.CONNECT_S", 2)
    backend.stop()
    code, said = tracker(capsys, "sync", folder)
    assert (code, "W&B cannot be used" in said) == (2, True), said
    code, said = tracker(capsys, "sync", folder.parent / "elsewhere")
    assert (code, "no run folder" in said) == (2, True), said


def test_a_spoilt_run_is_sent_anew(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracker(capsys, "sync", folder)[0] == 0
    stored = backend.run(folder.name)
    whole = list(stored.history)
    stored.history[2] = json.dumps(stored.rows()[2] | {"test/accuracy": 0.125})
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "epoch 2: test/accuracy is 0.125, not" in said, "`sync --as NEW_ID`" in said) == (1, True, True), said
    stored.history[:] = [*whole, json.dumps(json.loads(whole[2]) | {"_step": len(whole)})]
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "epochs [2] more than once" in said) == (1, True), said
    stored.history[:] = [*whole[:2], *whole[3:]]
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "epochs [2] are missing on the server before its last" in said, "`sync --as NEW_ID`" in said) == (1, True, True), said
    assert len(stored.history) == EPOCHS
    backend.on_upsertbucket({"project": stored.project, "name": "taken"})
    code, said = tracker(capsys, "sync", folder, "--as", "taken")
    assert (code, "Choose another id" in said) == (1, True), said
    # Cut short, then called again.
    backend.fault("file_stream", status=403)
    assert tracker(capsys, "sync", folder, "--as", "clean")[0] == 1
    backend.clear()
    code, said = tracker(capsys, "sync", folder, "--as", "clean")
    assert (code, "synced" in said) == (0, True), said
    assert backend.run("clean").epochs() == EXPECTED
    # From then on the run is that one.
    assert tracker(capsys, "sync", folder, "--as", "clean")[0] == 0
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "up to date" in said) == (0, True), said
    assert (len(stored.history), backend.run("clean").epochs()) == (EPOCHS, EXPECTED)
    shutil.copytree(folder, folder.parent / "copy")
    assert tracker(capsys, "sync", folder.parent, "--as", "third")[0] == 2


def test_an_online_attempt_continues_what_was_synced(backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Offline, stopped, synced, then online: the server's last epoch is where the second attempt begins."""
    folder = stopped(compose(settings(tmp_path / "runs", "offline")), epoch=2)
    assert len(read_metrics(folder)) == 3
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name).epochs() == [0, 1, 2]
    assert train(tmp_path / "runs", "auto") == folder
    assert backend.run(folder.name).epochs() == EXPECTED
    assert [row["job/attempt"] for row in backend.run(folder.name).rows()] == [1, 1, 1, 2, 2, 2]
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name).epochs() == EXPECTED


def test_a_row_that_was_refused_goes_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    original = wandb.sdk.wandb_run.Run.log
    refused = [2, 3]

    def log(self: object, data: dict[str, object], **more: object) -> None:
        if data["epoch"] in refused:
            refused.remove(data["epoch"])
            raise OSError(28, "No space left on device")
        original(self, data, **more)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    folder = train(tmp_path / "runs", "offline")
    assert offline_epochs(folder) == EXPECTED
    assert refused == []
