"""The saved workspace, its picture, and the viewer."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import Backend, StoredRun
from matplotlib.figure import Figure
from short_runs import EPOCHS, records, train
from terminal import Terminal

from repro.files import read_json, write_json
from repro.tracker.__main__ import main
from repro.tracker.contents import Contents
from repro.tracker.dashboards import GROUPED_BY, build, save, sections
from repro.tracker.server import Server
from repro.tracker.view import SHOWN, gather

pytest.importorskip("wandb_workspaces", reason="the extra `dashboards` is not installed")

# wandb-workspaces itself is written with Pydantic's old decorators.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1|Support for class-based:DeprecationWarning")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("trained"), "offline")


@pytest.fixture
def logged(trained: Path, backend: Backend, tmp_path: Path) -> tuple[Path, StoredRun]:
    """A run folder and what really arrived of it."""
    folder = Path(shutil.copytree(trained, tmp_path / "runs" / trained.name, symlinks=True))
    assert main(["sync", str(folder)]) == 0
    return folder, backend.run(folder.name)


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _dictionaries(item)


def names_in(spec: dict[str, Any]) -> tuple[set[str], set[str], set[str], set[str]]:
    """Return the metrics, the regular expressions of metrics, the config and the summary names that a saved spec mentions."""
    metrics, patterns, config, summary = set(), set(), set(), set()

    def take(name: str) -> None:
        for prefix, place in (("summary_metrics.", summary), ("summary:", summary), ("config:", config), ("config.", config)):
            if name.startswith(prefix):
                place.add(name.removeprefix(prefix))
                return
        metrics.add(name)

    for part in _dictionaries(spec):
        for key in ("metrics", "mediaKeys"):
            for name in part.get(key) or ():
                take(name)
        if "metricRegex" in part:
            patterns.add(part["metricRegex"])
        for key in ("xAxis", "yAxis", "accessor"):
            if isinstance(part.get(key), str) and part[key] not in ("_step", ""):
                take(part[key])
        if isinstance(part.get("groupBy"), str):
            config.add(part["groupBy"])
        if part.get("section") in ("config", "summary", "run") and "name" in part:
            {"config": config, "summary": summary, "run": set()}[part["section"]].add(part["name"])
    for name in spec["section"]["runSets"][0]["runFeed"]["columnPinned"]:
        if not name.startswith("run:"):
            take(name)
    return metrics, patterns, config, summary


def test_every_name_in_the_workspace_was_really_logged(logged: tuple[Path, StoredRun], backend: Backend) -> None:
    _, stored = logged
    server = Server("soft-labels-repro", None)
    url = save(server)
    (view,) = backend.views.values()
    spec = json.loads(view["spec"])
    metrics, patterns, config, summary = names_in(spec)
    assert {"test/accuracy", "label/heatmap", "label/entropy_q50", "noise/correction_rate", "job/attempt", "epoch"} <= metrics
    assert len(metrics) > 20
    row = {name for row in stored.rows() for name in row}
    assert metrics <= row, metrics - row
    for pattern in patterns:
        assert sum(re.search(pattern, name) is not None for name in row) == 10, pattern
    assert len(patterns) == 2
    assert {"best_val_test_accuracy", "final_test_accuracy"} <= summary <= set(stored.summary), summary - set(stored.summary)
    assert {"method.value.name", "noise.value.rate"} <= config
    for name in config:
        value: Any = stored.config
        for part in name.split(".") if ".value" in name else [*name.split(".")[:1], "value", *name.split(".")[1:]]:
            assert part in value, name
            value = value[part]
    # Saved again, it is the same view, whatever was changed in it meanwhile.
    view["spec"] = view["spec"].replace("Label error", "Another title")
    assert save(server, url) == url
    (again,) = backend.views.values()
    assert without_identifiers(json.loads(again["spec"])) == without_identifiers(spec)
    assert backend.unknown == []


def without_identifiers(value: Any) -> Any:
    """Return a spec without what is drawn at random whenever it is built."""
    if isinstance(value, dict):
        return {name: without_identifiers(item) for name, item in value.items() if name not in ("__id__", "id", "ref")}
    return [without_identifiers(item) for item in value] if isinstance(value, list) else value


def test_the_grouping_and_the_command(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = build(Server("soft-labels-repro", None))
    assert [key.name for key in workspace.runset_settings.groupby] == list(GROUPED_BY)
    assert {name.split(".")[0] for name in GROUPED_BY} == {"dataset", "method", "noise", "split", "seed"}
    sections = [section.name for section in workspace.sections]
    assert sections == ["Headline", "Label trajectories", "Meta accuracy by class", "Noise correction", "Run health"]
    assert main(["workspace", "save"]) == 0
    url = capsys.readouterr().out.strip()
    assert main(["workspace", "save", "--url", url]) == 0
    assert len(backend.views) == 1
    assert main(["workspace", "save", "--url", url.replace("nw=", "nw=no")]) == 2


def test_the_viewer_shows_runs_with_the_filter(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    command = [sys.executable, "-m", "repro.tracker", "view", str(trained), "--metrics", "^noise/"]
    viewer = Terminal(command, os.environ | {"TERM": "xterm-256color"})
    shown = viewer.until("filtered from")
    viewer.close()
    assert "s0-n40" in shown
    assert "class_meta" not in shown
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def shown_epochs(place: Path) -> list[int]:
    """Return the epochs in all the files that the viewer gets."""
    found = [record for file in place.glob("run-*/run-*.wandb") for record in records(file)]
    return [int(record["history"]["item"]["epoch"]) for record in found if record["type"] == "history"]


def test_what_the_viewer_gets(trained: Path, tmp_path: Path) -> None:
    (name,) = gather([trained], tmp_path)
    assert name.partition("-s")[2].startswith("0-n40-instance_labels-digits")
    assert read_json(tmp_path / ".wandb-leet.json") == {"metrics_filter": {"query": SHOWN}, "selected_runs": [name]}
    assert not re.search(SHOWN, "class_meta_accuracy/003")
    # The viewer sorts its charts by name, and shows two of them on the first page of a small terminal.
    names = sorted(name for name in Contents(trained).rows()[-1] if re.search(SHOWN, name))
    assert names[:2] == ["noise/label_error", "test/accuracy"]
    assert shown_epochs(tmp_path) == list(range(EPOCHS + 1))
    (link,) = tmp_path.glob("run-*/run-*.wandb")
    # W&B's own file, which grows while the run is under way.
    assert link.resolve().is_relative_to(trained)


@pytest.mark.parametrize("last", ["offline again", "a failed online start", "online", "none"])
def test_the_viewer_gets_every_epoch_once(last: str, trained: Path, tmp_path: Path) -> None:
    """Of several attempts too; where the last was not offline, from metrics.jsonl."""
    runs, place = tmp_path / "runs", tmp_path / "place"
    place.mkdir()
    if last == "none":
        folder = train(runs, "none")
        shutil.copytree(trained / "wandb", folder / "wandb", symlinks=True)
    else:
        folder = Path(shutil.copytree(trained, runs / trained.name, symlinks=True))
    (first,) = (folder / "wandb").glob("offline-run-*")
    second = {
        "offline again": first.name.replace("run-2", "run-3"),
        "online": first.name.replace("offline-run-2", "run-3"),
        "a failed online start": first.name.removeprefix("offline-"),
    }
    if last in second:
        shutil.copytree(first, first.with_name(second[last]))
    gather([folder], place)
    assert shown_epochs(place) == list(range(EPOCHS + 1))
    (link,) = place.glob("run-*/run-*.wandb")
    expected = {"offline again": first.with_name(second["offline again"]), "a failed online start": first}
    assert link.resolve().is_relative_to(expected.get(last, place))


def test_nothing_to_view(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "runs" / trained.name, symlinks=True))
    write_json(folder / "status.json", read_json(folder / "status.json") | {"state": "preempted"})
    (folder / "metrics.jsonl").write_text("")
    assert main(["view", str(folder)]) == 2
    assert "none of these runs has a row yet" in capsys.readouterr().err


def test_the_picture_has_every_panel_with_the_metrics_that_it_names(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("repro.tracker.picture.Figure", lambda *given, **named: drawn.append(Figure(*given, **named)) or drawn[0])
    out = tmp_path / "panels.png"
    assert main(["picture", str(trained), "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")
    panels = [panel for section in sections() for panel in section.panels]
    shown = {axes.get_title().replace("\n", " "): axes for part in drawn[0].subfigs for axes in part.axes if axes.get_title()}
    assert list(shown) == [panel.title for panel in panels]
    for panel in panels:
        names = panel.y if type(panel).__name__ == "LinePlot" else []
        empty = [text.get_text() for text in shown[panel.title].texts] == ["no data in these runs"]
        # Only W&B is told of these.
        assert empty == any(name.startswith("job/") for name in names), panel.title
        lines = shown[panel.title].lines
        if type(panel).__name__ == "LinePlot" and panel.y and not empty:
            assert [list(line.get_ydata()) for line in lines] == [
                [row[name] for row in rows_of(trained) if name in row] for name in panel.y
            ]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return Contents(folder).rows()


def test_a_picture_without_rows_or_place_says_so(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["picture", str(trained), "--out", str(tmp_path / "none" / "panels.png")]) == 2
    assert "none/panels.png cannot be written" in capsys.readouterr().err
    assert main(["picture", str(trained), "--out", str(tmp_path / "panels.xyz")]) == 2
    assert "such as panels.png" in capsys.readouterr().err
