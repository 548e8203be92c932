"""A loopback backend for each test that asks for one. Nothing here contacts anything but 127.0.0.1."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Backend
from short_runs import PATIENT, results, train


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever account the machine has is not seen; a client that looked for the public service would find nobody."""
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # The loopback backend shows at once what it has taken.
    monkeypatch.setattr("repro.tracker.sync.SETTLING_S", ())
    for (module, name), limit_s in PATIENT.items():
        monkeypatch.setattr(module, name, limit_s)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Iterator[Backend]:
    """A backend that this process's client uses, as a client of its own."""
    import wandb

    wandb.teardown()
    with Backend() as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served
        served.faults.clear()
        wandb.teardown()


@pytest.fixture(scope="session")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What the short run gives without a mirror."""
    return results(train(tmp_path_factory.mktemp("untracked"), "none"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an offline mirror, to be copied."""
    return train(tmp_path_factory.mktemp("trained"), "offline", "tracker.picture_epochs=2")
