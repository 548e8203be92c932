"""Everything that can go wrong with the server, the network, the disk: training ends in the same bits, and a later sync completes."""

import http.client
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from loopback import Backend
from short_runs import EPOCHS, PATIENCE, at_epoch, offline_epochs, results, train

from repro.runs.state import read_state
from repro.tracker import client, server
from repro.tracker.contents import Contents, compare
from repro.tracker.server import Server
from repro.tracker.sync import Outcome, sync

EXPECTED = list(range(EPOCHS + 1))

#: The time limits as they are shipped.
SHIPPED = dict(zip(PATIENCE, (server.CONNECT_S, client.INIT_TIMEOUT_S, client.FINISH_TIMEOUT_S), strict=True))


def synced(folder: Path, backend: Backend) -> Outcome:
    """Sync, and check what the backend has against the truth, not against what sync says."""
    outcome = sync(folder, Server("soft-labels-repro", None), limit_s=300)
    assert outcome.state in ("synced", "up to date"), outcome
    assert backend.run(folder.name).epochs() == EXPECTED
    assert compare(Contents(folder).rows(), backend.run(folder.name).rows(), finished=True) == []
    assert backend.run(folder.name).state == "finished"
    assert backend.unknown == []
    return outcome


def down(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    backend.stop()
    return backend.start


def fault(what: str, **how: Any) -> Callable[[Backend, pytest.MonkeyPatch], Callable[[], None]]:
    def prepare(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
        backend.fault(what, **how)
        return backend.clear

    return prepare


def dies(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    at_epoch(monkeypatch, 2, backend.stop)
    return backend.start


def dies_and_comes_back(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    at_epoch(monkeypatch, 2, backend.stop)
    at_epoch(monkeypatch, 4, backend.start)
    return lambda: None


#: Name of the case -> what goes wrong, whether the mirror of the attempt is offline, whether the server has every row at its end.
CASES: dict[str, tuple[Callable[[Backend, pytest.MonkeyPatch], Callable[[], None]], bool, bool]] = {
    "down at start": (down, True, False),
    "401": (fault("Viewer|UpsertBucket|RunResumeStatus|file_stream", status=401), True, False),
    "403": (fault("Viewer|UpsertBucket|RunResumeStatus|file_stream", status=403), True, False),
    "403 once it has started": (fault("UpsertBucket", status=403), True, False),
    "500 at start": (fault("UpsertBucket", status=500), True, False),
    "silent once it has started": (fault("UpsertBucket", delay_s=30.0), True, False),
    "429 at start": (fault("Viewer", status=429), True, False),
    "500 three times": (fault("file_stream", status=500, times=3), False, True),
    "429 three times": (fault("file_stream", status=429, times=3), False, True),
    "connection closed three times": (fault("file_stream", close=True, times=3), False, True),
    "403 for all rows": (fault("file_stream", status=403), False, False),
    "answers slowly": (fault("graphql|file_stream|UpsertBucket|RunResumeStatus|Viewer", delay_s=0.5), False, True),
    "dies during the run": (dies, False, False),
    "dies and comes back": (dies_and_comes_back, False, True),
}

#: Cases that leave different things behind; the slow test syncs after every case.
SYNCED_HERE = ("down at start", "500 three times", "403 for all rows", "dies during the run", "dies and comes back")


@pytest.mark.parametrize("case", CASES)
def test_server_and_network(case: str, backend: Backend, untracked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, falls_back, complete = CASES[case]
    # The time limits themselves are measured by the slow test below; short ones where nothing answers.
    if case in ("down at start", "429 at start"):
        monkeypatch.setattr(server, "CONNECT_S", 2)
    if case == "silent once it has started":
        monkeypatch.setattr(client, "INIT_TIMEOUT_S", 2)
    if case == "dies during the run":
        monkeypatch.setattr(client, "FINISH_TIMEOUT_S", 2)
    end_fault = prepare(backend, monkeypatch)
    folder = train(tmp_path / "runs", "online")
    # As at the end of a process: W&B's service, which would go on trying, ends with it.
    wandb.teardown()
    assert read_state(folder) == "done"
    assert results(folder) == untracked
    assert (offline_epochs(folder) == EXPECTED) == falls_back
    stored = backend.runs.get(("soft-labels-repro", folder.name))
    assert (stored is not None and stored.epochs() == EXPECTED) == complete
    end_fault()
    monkeypatch.setattr(server, "CONNECT_S", PATIENCE["repro.tracker.server.CONNECT_S"])
    if case in SYNCED_HERE:
        synced(folder, backend)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_time_lost(case: str, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the same run without a mirror, a failing server costs less than 15 seconds, or as much longer as a busy machine takes."""
    for place, limit_s in SHIPPED.items():
        monkeypatch.setattr(place, limit_s)
    train(tmp_path / "first", "none")
    start, computed = time.monotonic(), time.process_time()
    train(tmp_path / "none", "none")
    without = time.monotonic() - start
    slower = max(1.0, without / (time.process_time() - computed))
    prepare, _, _ = CASES[case]
    end_fault = prepare(backend, monkeypatch)
    start = time.monotonic()
    folder = train(tmp_path / "runs", "online")
    lost = time.monotonic() - start - without
    print(f"{case}: {lost:.1f} s lost on a machine that takes {slower:.1f} times the processor's time")
    wandb.teardown()
    for place, limit_s in PATIENCE.items():
        monkeypatch.setattr(place, limit_s)
    end_fault()
    synced(folder, backend)
    assert lost < 15.0 * slower


def test_full_disk(backend: Backend, untracked: Any, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B drops rows on a full disk without a word; metrics.jsonl, which has room, fills them in."""
    original = train(tmp_path / "first", "none")
    folder = tmp_path / "runs" / original.name
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "wandb").symlink_to(small_disk)
    monkeypatch.setattr("repro.training.run._check_folder", lambda *known: None)
    at_epoch(monkeypatch, 1, lambda: (small_disk / "ballast").write_bytes(bytes(_free(small_disk) - 4096)))
    assert train(tmp_path / "runs", "offline") == folder
    assert results(folder) == untracked
    assert offline_epochs(folder) != EXPECTED
    (small_disk / "ballast").unlink()
    synced(folder, backend)


def _free(place: Path) -> int:
    return shutil.disk_usage(place).free


@pytest.mark.parametrize("tracker", ["offline", "online"])
@pytest.mark.parametrize("kind", ["a file", "read-only"])
def test_a_folder_that_w_and_b_cannot_write(
    kind: str,
    tracker: str,
    backend: Backend,
    untracked: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    request: pytest.FixtureRequest,
) -> None:
    """W&B would write to the system's temporary folder instead; nothing may go there."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    folder = tmp_path / "runs" / train(tmp_path / "first", "none").name
    folder.mkdir(parents=True)
    # Root, as whom tests may run, can write to any folder of a file system that can be written.
    if kind == "a file":
        (folder / "wandb").touch()
    else:
        place = request.getfixturevalue("small_disk")
        subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
        (folder / "wandb").symlink_to(place)
    monkeypatch.setattr("repro.training.run._check_folder", lambda *known: None)
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "runs", tracker)
    assert "training continues without the mirror" in caplog.text
    assert results(folder) == untracked
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
    os.unlink(folder / "wandb")
    synced(folder, backend)


def test_full_disk_of_the_truth_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror may fail; metrics.jsonl may not."""
    from repro.errors import UserError

    def full() -> None:
        raise OSError(28, "No space left on device")

    at_epoch(monkeypatch, 2, full)
    with pytest.raises(UserError, match="No space left"):
        train(tmp_path / "runs", "offline")
    (folder,) = (tmp_path / "runs").iterdir()
    assert read_state(folder) == "failed"


VIEWER = json.dumps({"query": "query Viewer { viewer { id } }", "operationName": "Viewer"})


def test_a_stopped_server_answers_on_no_connection(backend: Backend) -> None:
    """A client that had written its first rows before would otherwise go on writing; on a slow machine it has."""
    connection = http.client.HTTPConnection("127.0.0.1", backend.port)

    def status() -> int:
        connection.request("POST", "/graphql", VIEWER)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    assert status() == 401
    backend.stop()
    with pytest.raises((http.client.HTTPException, OSError)):
        status()
    connection.close()
    backend.start()
    assert status() == 401
    connection.close()
