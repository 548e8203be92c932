"""The lists and the page of doubted labels: what is in them, what reads them back, and which runs are refused."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from doubted_runs import NAMES, doubted_run, folder_run
from label_runs import NOISY, digits
from real_runs import tiny

from analysis.__main__ import main
from analysis.audit.doubts import find_doubts
from analysis.audit.page import LEVELS
from repro.config.registry import get
from repro.errors import UserError
from repro.files import read_json
from repro.training.run import execute


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def data_of(page: str) -> dict[str, Any]:
    """Return what the script of a page reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_images_of_ones_own_are_listed_by_file_and_what_is_corrected_is_read_back(tmp_path: Path, data: Path) -> None:
    run, out = folder_run(data, tmp_path / "runs"), data / "mine" / "audit"
    assert main(["audit", str(run), "--out", str(out)]) == 0
    doubted, corrected = rows_of(out / "doubted_labels.csv"), rows_of(out / "corrected_labels.csv")
    assert [row["file"] for row in doubted[:2]] == ["7, a.png", "3, a.png"]
    assert (doubted[0]["annotated"], doubted[0]["suggested"]) == (NAMES[2], NAMES[1])
    assert len(doubted) == 17
    changed = [row for row in corrected if row["rule"].startswith("another class more than")]
    assert [(row["file"], row["annotated"], row["label"]) for row in changed] == [
        ("3, a.png", NAMES[1], NAMES[0]),
        ("7, a.png", NAMES[2], NAMES[1]),
    ]
    assert [row["rule"] for row in corrected].count("not trained on") == 7
    choice = get("dataset", "image_folder")
    raw = choice.build(choice.config(name="image_folder", folder="mine", labels="audit/corrected_labels.csv", side=8), data)
    assert [raw.class_names[label] for label in raw.train.labels] == [NAMES[number % 3] for number in range(18)]
    assert raw.test_files == tuple(f"{number}, a.png" for number in range(18, 24))
    assert raw.verified.tolist() == [True] + [False] * 17
    page = (out / "audit.html").read_text(encoding="utf-8")
    # Names of strangers are text: the page has no markup of theirs.
    assert "<img" not in page
    shown = data_of(page)
    assert shown["classes"] == sorted(NAMES)
    assert [shown["names"][row] for row in shown["rows"][:2]] == ["7, a.png", "3, a.png"]
    assert (shown["trained"], shown["verified"], sum(shown["changed"])) == (18, [0], 2)


def test_several_runs_are_one_list_of_all_their_images(tmp_path: Path) -> None:
    true = digits().train.labels[:30]
    observed = true.copy()
    observed[4] = (true[4] + 1) % 10
    right = np.eye(10)[true] * 0.8 + 0.02
    for name, rows, suggested in (("a", np.arange(20), true[4]), ("b", np.arange(2, 30), (true[4] + 2) % 10)):
        probabilities = right.copy()
        probabilities[4] = np.eye(10)[suggested] * (0.8 if name == "a" else 0.6) + 0.02
        doubted_run(
            tmp_path / name, rows.tolist(), observed[rows], probabilities[rows], **{k.replace(".", "__"): v for k, v in NOISY.items()}
        )
    doubts = find_doubts([tmp_path / "a", tmp_path / "b"])
    assert sorted(doubts.rows.tolist()) == list(range(30))
    assert (doubts.rows[0], doubts.annotated[0], doubts.suggested[0], doubts.true[0]) == (4, observed[4], true[4], true[4])
    assert doubts.scores[0] == pytest.approx(1.0 - (0.5 / 20 + 0.5 / 28) / 2)
    # Half of the runs suggest it; they keep no predictions of clean images.
    assert doubts.agreement[0] == 0.5
    assert "No label is changed: the runs kept no predictions of clean images" in doubts.in_words()
    assert doubts.by_rank() == [(1, 1.0, 1.0), (10, 0.1, 1.0), (20, 0.05, 1.0)]
    doubted_run(tmp_path / "c", [4], true[[4]], right[[4]], noise__name="uniform")
    with pytest.raises(UserError, match=r"c: its images are annotated otherwise than those of .*a\. Noise is drawn anew for each seed"):
        find_doubts([tmp_path / "a", tmp_path / "c"])


def test_a_run_that_is_not_done_or_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", str(tmp_path / "none")]) == 2
    assert "none: it is missing, and must be the folder of a run that is done" in capsys.readouterr().err


def test_a_real_run_keeps_what_its_network_makes_of_clean_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = execute(tiny(tmp_path / "runs", "method=instance_labels", "noise=uniform", "noise.rate=0.4", "optim.batch_size=16"))
    kept = np.load(run / "predictions.npz")
    # Of the trained network alone, so that the untrained one of epoch 0 is not among them.
    accuracy = read_json(run / "final.json")["meta/accuracy"]["last"]
    assert (kept["clean_probabilities"].argmax(axis=1) == kept["clean_labels"]).mean() == pytest.approx(accuracy)
    np.testing.assert_allclose(kept["clean_probabilities"].sum(axis=1), 1.0, rtol=1e-5)
    assert main(["audit", str(run)]) == 0
    said, doubts = capsys.readouterr().out, find_doubts([run])
    assert f"right after {(doubts.corrected == doubts.true).mean():.3f}" in said
    page = tmp_path / "runs" / "pages" / run.name / "audit.html"
    assert str(page) in said
    shown = data_of(page.read_text(encoding="utf-8"))
    assert shown["epochs"] == [1]
    # The line of a label: in the first epoch it is close to the annotated class.
    assert all(LEVELS.index(line[0]) > LEVELS.index(line[1]) for line in shown["lines"][:20])
