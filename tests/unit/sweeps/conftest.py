from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def nothing_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Specs find no chosen values but those that a test writes to ``tuned``."""
    monkeypatch.setenv("REPRO_TUNED", str(tmp_path / "tuned"))
