"""A loopback backend for each test that asks for one. Nothing here contacts anything but 127.0.0.1."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from loopback import Backend
from short_runs import PATIENCE, results, train


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever account the machine has is not seen; a client that looked for the public service would find nobody."""
    home = tmp_path / "nobody"
    home.mkdir()
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR", "NETRC"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_SILENT", "true")
    # The loopback backend shows at once what it has taken.
    monkeypatch.setattr("repro.tracker.sync.SETTLING_S", ())
    # A server that answers has all the time that a busy machine needs.
    for place, limit_s in PATIENCE.items():
        monkeypatch.setattr(place, limit_s)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch, own_environment: None) -> Iterator[Backend]:
    """A backend that this process's client uses, anew."""
    import wandb

    wandb.teardown()
    with Backend() as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served
        served.clear()
        wandb.teardown()


@pytest.fixture(scope="session")
def untracked(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes, list[dict[str, object]]]:
    """What the short run gives without a mirror."""
    return results(train(tmp_path_factory.mktemp("untracked"), "none"))
