"""The saved workspace."""

import json
import re
import shutil
from pathlib import Path

import pytest
from loopback import Backend, StoredRun

from repro.tracker.__main__ import main

pytest.importorskip("wandb_workspaces", reason="the extra `dashboards` is not installed")

# wandb-workspaces itself is written with Pydantic's old decorators.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1|Support for class-based:DeprecationWarning")


@pytest.fixture
def logged(trained: Path, backend: Backend, tmp_path: Path) -> StoredRun:
    """What really arrived of a run."""
    folder = shutil.copytree(trained, tmp_path / "runs" / trained.name, symlinks=True)
    assert main(["sync", str(folder)]) == 0
    return backend.run(trained.name)


def test_every_name_in_the_workspace_was_really_logged(logged: StoredRun, backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["workspace", "save"]) == 0
    url = capsys.readouterr().out.strip()
    (view,) = backend.views.values()
    text = json.dumps(json.loads(view["spec"]), sort_keys=True)
    row = {name for row in logged.rows() for name in row}
    metrics = set(re.findall(r'"([a-z_]+/[a-z0-9_]+)"', text))
    assert {"test/accuracy", "label/heatmap", "label/entropy_q50", "noise/correction_rate", "job/attempt"} <= metrics <= row, metrics - row
    patterns = re.findall(r'"metricRegex": "([^"]+)"', text)
    assert [sum(re.search(json.loads(f'"{pattern}"'), name) is not None for name in row) for pattern in patterns] == [10, 10]
    summary = set(re.findall(r"summary(?:_metrics\.|:)(\w+)", text)) | set(re.findall(r'"name": "(\w+)", "section": "summary"', text))
    assert {"best_val_test_accuracy", "final_test_accuracy"} <= summary <= set(logged.summary), summary - set(logged.summary)
    config = {tuple(name.split(".")) for name in re.findall(r'"(\w+\.value\.\w+)"', text)}
    assert {("method", "value", "name"), ("noise", "value", "rate")} <= config
    assert [path for path in config if path[2] not in logged.config[path[0]][path[1]]] == []
    # Saved again, it is the same view, whatever was changed in it meanwhile.
    view["spec"] = view["spec"].replace("Label error", "Another title")
    assert main(["workspace", "save", "--url", url]) == 0
    assert capsys.readouterr().out.strip() == url
    (again,) = backend.views.values()
    assert "Label error" in again["spec"]
    assert "Another title" not in again["spec"]
    assert main(["workspace", "save", "--url", url.replace("nw=", "nw=no")]) == 2
    assert backend.unknown == []
