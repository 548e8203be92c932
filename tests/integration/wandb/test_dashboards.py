"""The saved workspace."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dictionaries(item)


def names_in(spec: dict[str, Any]) -> dict[str, set[str]]:
    """Return the names that a saved spec mentions: of ``metrics``, ``pattern``s of metrics, ``config``, ``summary`` and ``run``."""
    names: dict[str, set[str]] = {kind: set() for kind in ("metrics", "pattern", "config", "summary", "run")}

    def take(name: str) -> None:
        kind, _, rest = name.replace("summary_metrics.", "summary:").replace("config.", "config:").partition(":")
        names[kind if rest else "metrics"].add(rest or name)

    for part in _dictionaries(spec):
        axes = [part.get(key) for key in ("xAxis", "yAxis", "accessor")]
        for name in [*(part.get("metrics") or ()), *(part.get("mediaKeys") or ()), *axes, *part.get("columnPinned", ())]:
            if isinstance(name, str) and name not in ("_step", ""):
                take(name)
        if "metricRegex" in part:
            names["pattern"].add(part["metricRegex"])
        if isinstance(part.get("groupBy"), str):
            names["config"].add(part["groupBy"])
        if part.get("section") in list(names) and "name" in part:
            names[part["section"]].add(part["name"])
    return names


def test_every_name_in_the_workspace_was_really_logged(
    logged: StoredRun, backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main(["workspace", "save"]) == 0
    url = capsys.readouterr().out.strip()
    (view,) = backend.views.values()
    spec = json.loads(view["spec"])
    names = names_in(spec)
    assert {"test/accuracy", "label/heatmap", "label/entropy_q50", "noise/correction_rate", "job/attempt", "epoch"} <= names["metrics"]
    row = {name for row in logged.rows() for name in row}
    assert names["metrics"] <= row, names["metrics"] - row
    assert [sum(re.search(pattern, name) is not None for name in row) for pattern in names["pattern"]] == [10, 10]
    assert {"best_val_test_accuracy", "final_test_accuracy"} <= names["summary"] <= set(logged.summary), names["summary"]
    assert {"method.value.name", "noise.value.rate"} <= names["config"]
    for name in names["config"]:
        value: Any = logged.config
        first, *rest = [part for part in name.split(".") if part != "value"]
        for part in (first, "value", *rest):
            assert part in value, name
            value = value[part]
    assert [section["name"] for section in spec["section"]["panelBankConfig"]["sections"]][:5] == [
        *("Headline", "Label trajectories", "Meta accuracy by class", "Noise correction", "Run health")
    ]
    # Saved again, it is the same view, whatever was changed in it meanwhile.
    view["spec"] = view["spec"].replace("Label error", "Another title")
    assert main(["workspace", "save", "--url", url]) == 0
    assert capsys.readouterr().out.strip() == url
    (again,) = backend.views.values()
    assert without_identifiers(json.loads(again["spec"])) == without_identifiers(spec)
    assert main(["workspace", "save", "--url", url.replace("nw=", "nw=no")]) == 2
    assert backend.unknown == []


def without_identifiers(value: Any) -> Any:
    """Return a spec without what is drawn at random whenever it is built."""
    if isinstance(value, dict):
        return {name: without_identifiers(item) for name, item in value.items() if name not in ("__id__", "id", "ref")}
    return [without_identifiers(item) for item in value] if isinstance(value, list) else value
