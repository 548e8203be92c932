"""Everything that can go wrong with the server, the network, the disk: training ends in the same bits, and a later sync completes."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb
from loopback import Backend
from real_runs import read_metrics
from short_runs import EXPECTED, at_epoch, offline_epochs, results, train

from repro.runs.state import read_state
from repro.tracker import mirror, server
from repro.tracker.contents import mismatch
from repro.tracker.server import Server
from repro.tracker.sync import sync

Prepare = Callable[[Backend, pytest.MonkeyPatch], object]


def check_sync(folder: Path, backend: Backend) -> None:
    """Sync, and check what the backend has against the truth, not against what sync says."""
    assert sync(folder, Server("soft-labels-repro", None)).startswith(("synced", "up to date"))
    stored = backend.run(folder.name)
    assert stored.epochs() == EXPECTED
    assert mismatch(read_metrics(folder), stored.rows(), finished=True) is None
    assert stored.state == "finished"
    assert backend.unknown == []


def fault(what: str, **how: Any) -> Prepare:
    return lambda backend, _: backend.fault(what, **how)


def dies(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    at_epoch(monkeypatch, 2, lambda: backend.fault(".", close=True))


def dies_and_comes_back(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(backend, monkeypatch)
    at_epoch(monkeypatch, 4, backend.faults.clear)


#: Name of the case -> what goes wrong, whether the mirror of the attempt is offline, whether the server has every row at its end.
CASES: dict[str, tuple[Prepare, bool, bool]] = {
    "down at start": (lambda _, monkeypatch: monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9"), True, False),
    "401": (fault("Viewer|UpsertBucket|RunResumeStatus|file_stream", status=401), True, False),
    "403 once it has started": (fault("UpsertBucket", status=403), True, False),
    "silent once it has started": (fault("UpsertBucket", delay_s=30.0), True, False),
    "429 at start": (fault("Viewer", status=429), True, False),
    "500 three times": (fault("file_stream", status=500, times=3), False, True),
    "403 for all rows": (fault("file_stream", status=403), False, False),
    "answers slowly": (fault("graphql|file_stream|UpsertBucket|RunResumeStatus|Viewer", delay_s=0.5), False, True),
    "dies during the run": (dies, False, False),
    "dies and comes back": (dies_and_comes_back, False, True),
}

#: Limits that are waited for in these cases, shortened.
SHORT = {
    "down at start": (server, "CONNECT_S"),
    "429 at start": (server, "CONNECT_S"),
    "silent once it has started": (mirror, "INIT_TIMEOUT_S"),
    "dies during the run": (mirror, "FINISH_TIMEOUT_S"),
}


@pytest.mark.parametrize("case", CASES)
def test_server_and_network(case: str, backend: Backend, untracked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare, falls_back, complete = CASES[case]
    with monkeypatch.context() as patch:
        if case in SHORT:
            patch.setattr(*SHORT[case], 2)
        prepare(backend, patch)
        folder = train(tmp_path / "runs", "online")
        # As at the end of a process: W&B's service, which would go on trying, ends with it.
        wandb.teardown()
    assert read_state(folder) == "done"
    assert results(folder) == untracked
    assert (offline_epochs(folder) == EXPECTED) == falls_back
    stored = backend.runs.get(("soft-labels-repro", folder.name))
    assert (stored is not None and stored.epochs() == EXPECTED) == complete
    if case in ("down at start", "403 for all rows", "dies during the run"):  # which leave different things behind
        backend.faults.clear()
        check_sync(folder, backend)


def test_a_folder_that_w_and_b_cannot_write(
    untracked: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """W&B would write to the system's temporary folder instead; nothing may go there."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    folder = tmp_path / "runs" / train(tmp_path / "first", "none").name
    folder.mkdir(parents=True)
    (folder / "wandb").touch()
    with caplog.at_level(logging.WARNING):
        train(tmp_path / "runs", "offline")
    assert "training continues without the mirror" in caplog.text
    assert results(folder) == untracked
    assert [path for path in temporary.rglob("*") if path.is_file()] == []
