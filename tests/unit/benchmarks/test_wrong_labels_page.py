"""The page of finding wrong labels: what runs, lists of several and the peer find, and what each costs."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from markdown_blocks import ROOT
from PIL import Image

from benchmarks import wrong_labels_page


def line(column: str, what: str, cpu_s: float, found: float, **more: float) -> dict[str, Any]:
    measured = {"average_precision": found, "auroc": 0.9, "false_negative_rate": 0.3, "right_after": 0.7, "right_before": 0.6}
    return {"column": column, "seed": 0, "what": what, "cpu_s": cpu_s} | measured | more


def test_a_line_for_each_list_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("average_precision", "auroc", "false_negative_rate", "right_labels")
    # The third was trained before it measured any of it.
    measured = {f"doubt/{name}@last": [0.5, 0.6, None] for name in names}
    runs = pd.DataFrame({"cpu_s": [100.0, 200.0, None], **measured}, index=["a", "b", "c"], dtype=object)
    cell = SimpleNamespace(column="A", row="One-hot")
    results = SimpleNamespace(cells=[cell], runs=runs, done=lambda cell: ["a", "b", "c"])
    monkeypatch.setattr(wrong_labels_page, "read_results", lambda *_: results)
    lines = [
        line(column, f"cleanlab, {epochs} epochs", 10.0 * epochs, 0.5 + better, val_accuracy=0.5 - better)
        for column in ("A", "B")
        for epochs, better in ((5, 0.0), (15, 0.1))
    ]
    path = tmp_path / "found.jsonl"
    path.write_text(
        "".join(json.dumps(each) + "\n" for each in [*lines, line("A", "X and Y", 300.0, 0.8), line("A", "X and Y", 100.0, 0.9)])
    )
    figures = []
    saved = wrong_labels_page.saved
    monkeypatch.setattr(wrong_labels_page, "saved", lambda figure: figures.append(figure) or saved(figure))
    wrong_labels_page.main([str(path), "--scale", "small"])
    colors = [{line.get_label(): line.get_color() for line in axes.lines} for axes in figures[0].axes]
    assert colors[0]["cleanlab, by epochs"] == colors[1]["cleanlab, by epochs"] != colors[0]["One-hot"]
    page = [[cell.strip() for cell in row.strip("|").split("|")] for row in (tmp_path / "found.md").read_text().splitlines() if "|" in row]
    assert page[2:] == [
        ["A", "as annotated", "", "", "", "", "60.0"],
        ["A", "One-hot", "150", "55.0", "55.0", "55.0", "55.0"],
        ["A", "cleanlab, 5 epochs, chosen", "50", "50.0", "90.0", "30.0", "70.0"],
        ["A", "cleanlab, 15 epochs", "150", "60.0", "90.0", "30.0", "70.0"],
        ["A", "X and Y", "200", "85.0", "90.0", "30.0", "70.0"],
        ["B", "as annotated", "", "", "", "", "60.0"],
        ["B", "cleanlab, 5 epochs, chosen", "50", "50.0", "90.0", "30.0", "70.0"],
        ["B", "cleanlab, 15 epochs", "150", "60.0", "90.0", "30.0", "70.0"],
    ]
    assert "they are not the paper's numbers" in (tmp_path / "found.md").read_text()
    with Image.open(tmp_path / "found.png") as picture:
        assert min(picture.size) > 200


def test_the_committed_page_is_what_its_lines_and_the_evidence_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("docs/benchmarks")
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "paper_tables").symlink_to(ROOT / "paper_tables")
    shutil.copy(ROOT / folder / "wrong_labels.jsonl", tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    wrong_labels_page.main([str(folder / "wrong_labels.jsonl"), "--scale", "small"])
    assert (folder / "wrong_labels.md").read_text() == (ROOT / folder / "wrong_labels.md").read_text()
