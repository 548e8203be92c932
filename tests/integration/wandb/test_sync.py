"""``python -m repro.tracker sync``, ``verify`` and ``publish`` against the loopback backend."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from loopback import Backend
from short_runs import EPOCHS, offline_epochs, train

from repro.files import read_json, write_json
from repro.rundir import metrics_line, read_metrics
from repro.tracker.__main__ import main
from repro.tracker.fragments import fragments
from repro.tracker.locks import owner_lock, writer_lock
from repro.tracker.server import Remote, Server

EXPECTED = list(range(EPOCHS + 1))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with one offline fragment, to be copied."""
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
    assert tracker(capsys, "verify", folder) == (0, f"{folder.name}: as metrics.jsonl\n")
    code, said = tracker(capsys, "sync", folder.parent)
    assert (code, "synced" in said) == (0, True), said
    stored = backend.run(folder.name)
    assert stored.epochs() == EXPECTED
    assert stored.state == "finished"
    # Pictures at every second epoch and the last; no label of a single image anywhere.
    assert [row["epoch"] for row in stored.rows() if "label/heatmap" in row] == [0, 2, 4, 5]
    assert [row["epoch"] for row in stored.rows() if "label/entropy_histogram" in row] == [2, 4, 5]
    assert sum(name.endswith(".png") for name in stored.files) == 4
    counts = stored.rows()[-1]["label/entropy_histogram"]["values"]
    assert (len(counts), sum(counts)) == (64, read_json(folder / "labels" / "layout.json")["num_instances"])
    before = len(backend.requests)
    assert tracker(capsys, "sync", folder.parent, "--quiet") == (0, "")
    # The ledger answers; only who we are is asked.
    assert not {"Run", "UpsertBucket"} & set(backend.requests[before:])
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "up to date" in said) == (0, True), said
    (folder / "sync.json").write_text("{ torn")
    assert tracker(capsys, "sync", folder)[0] == 0
    assert stored.epochs() == EXPECTED
    assert tracker(capsys, "verify", "--online", folder)[0] == 0


def test_an_upload_that_says_it_worked(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """W&B's own upload ends with success when every row was refused; ours does not, and the next call completes."""
    backend.fault("file_stream", status=403)
    code, said = tracker(capsys, "sync", folder)
    assert (code, "failed" in said) == (1, True), said
    assert f"0 of {EPOCHS + 1} rows of 1 offline fragments arrived" in said
    assert backend.run(folder.name).epochs() == []
    assert "verified" not in read_json(folder / "sync.json") if (folder / "sync.json").exists() else True
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


def test_time_limit(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's upload never ends while the server answers 500."""
    backend.fault("file_stream", status=500)
    # So much is left when the upload begins, however long what comes before it took.
    monkeypatch.setattr("repro.tracker.sync._left", lambda deadline: 5.0)
    code, said = tracker(capsys, "sync", folder)
    assert (code, "did not end within" in said) == (1, True), said


def test_a_torn_end_and_an_empty_fragment(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    (fragment,) = fragments(folder)
    whole = fragment.path.read_bytes()
    fragment.path.write_bytes(whole[: len(whole) * 2 // 3])
    held = offline_epochs(folder)
    assert 0 < len(held) < len(EXPECTED)
    empty = folder / "wandb" / "offline-run-20200101_000000-x" / "run-x.wandb"
    empty.parent.mkdir()
    empty.write_bytes(whole[:7])
    code, said = tracker(capsys, "verify", folder)
    assert (code, f"epochs {held[-1] + 1}" in said) == (1, True), said
    code, said = tracker(capsys, "sync", folder)
    assert code == 0, said
    assert backend.run(folder.name).epochs() == EXPECTED
    noted = read_json(folder / "sync.json")["fragments"]
    assert noted[fragment.name]["state"] == "sent"
    assert noted[fragment.name]["cut_bytes"] > 0
    assert noted[empty.parent.name]["state"] == "empty"


def test_a_living_run_is_sent_from_the_truth(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """Its W&B files are left alone; when it has ended, what came later joins without a row twice."""
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    status = read_json(folder / "status.json")
    final = (folder / "final.json").read_bytes()
    (folder / "final.json").unlink()
    (folder / "metrics.jsonl").write_text("".join(lines[:3]))
    write_json(folder / "status.json", status | {"state": "preempted"})
    with owner_lock(folder):
        code, said = tracker(capsys, "sync", folder)
    assert code == 0, said
    assert backend.run(folder.name).epochs() == [0, 1, 2]
    assert not (fragments(folder)[0].path.parent / f"{fragments(folder)[0].path.name}.synced").exists()
    (folder / "metrics.jsonl").write_text("".join(lines))
    (folder / "final.json").write_bytes(final)
    write_json(folder / "status.json", status)
    code, said = tracker(capsys, "sync", folder)
    assert code == 0, said
    assert backend.run(folder.name).epochs() == EXPECTED
    assert backend.run(folder.name).state == "finished"
    assert read_json(folder / "sync.json")["fragments"][fragments(folder)[0].name]["state"] == "covered"


def test_two_at_once(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    with writer_lock(folder):
        code, said = tracker(capsys, "sync", folder)
    assert (code, "another process is sending it" in said) == (0, True), said
    assert backend.runs == {}


def test_no_server(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.stop()
    code, said = tracker(capsys, "sync", folder)
    assert (code, "Nothing was sent" in said) == (2, True), said
    code, said = tracker(capsys, "sync", folder.parent / "elsewhere")
    assert (code, "no run folder" in said) == (2, True), said


def test_drift_and_a_gap_are_named_and_published_anew(folder: Path, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    assert tracker(capsys, "sync", folder)[0] == 0
    stored = backend.run(folder.name)
    changed = stored.rows()[2] | {"test/accuracy": 0.125}
    stored.history[2] = json.dumps(changed)
    code, said = tracker(capsys, "verify", "--online", folder)
    assert (code, "epoch 2: test/accuracy is 0.125, not" in said) == (1, True), said
    del stored.history[2]
    code, said = tracker(capsys, "verify", "--online", folder)
    assert (code, "epoch 2 missing" in said) == (1, True), said
    code, said = tracker(capsys, "sync", folder, "--again")
    assert (code, "`publish` makes a clean copy" in said) == (1, True), said
    code, said = tracker(capsys, "publish", folder)
    assert code == 0, said
    assert said.strip().endswith(f"{folder.name}-2")
    assert backend.run(f"{folder.name}-2").epochs() == EXPECTED
    code, said = tracker(capsys, "publish", folder, "--id", folder.name)
    assert (code, "Choose another --id" in said) == (2, True), said


def test_an_online_attempt_continues_what_was_synced(backend: Backend, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Offline, stopped, synced, then online: the server's last epoch is where the second attempt begins."""
    from repro.errors import Interrupted
    from repro.monitor import Monitor

    def stop(self: Monitor, training: object) -> None:
        if len(self.rows) == 3:
            self._requests.append(15)
        original(self, training)  # type: ignore[arg-type]

    original = Monitor.between_steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Monitor, "between_steps", stop)
        with pytest.raises(Interrupted):
            train(tmp_path / "runs", "offline")
    (folder,) = (tmp_path / "runs").iterdir()
    assert len(read_metrics(folder)) == 3
    assert tracker(capsys, "sync", folder)[0] == 0
    assert backend.run(folder.name).epochs() == [0, 1, 2]
    assert train(tmp_path / "runs", "auto") == folder
    assert backend.run(folder.name).epochs() == EXPECTED
    assert [row["job/attempt"] for row in backend.run(folder.name).rows()] == [1, 1, 1, 2, 2, 2]
    assert tracker(capsys, "sync", folder)[0] == 0
    assert tracker(capsys, "verify", "--online", folder)[0] == 0


def test_a_row_that_was_refused_goes_before_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb

    original = wandb.sdk.wandb_run.Run.log
    refused = [2, 3]

    def log(self: object, data: dict[str, object], **more: object) -> None:
        if data["epoch"] in refused:
            refused.remove(data["epoch"])  # type: ignore[arg-type]
            raise OSError(28, "No space left on device")
        original(self, data, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", log)
    folder = train(tmp_path / "runs", "offline")
    assert offline_epochs(folder) == EXPECTED
    assert refused == []


def test_locks_are_freed_with_the_run(folder: Path) -> None:
    for lock in (owner_lock(folder), writer_lock(folder)):
        with lock:
            pass


def test_a_line_of_metrics_reads_back() -> None:
    assert json.loads(metrics_line({"epoch": 1, "test/loss": float("nan")})) == {"epoch": 1, "test/loss": "NaN"}
