"""The lists and the page of doubted labels: what is in them, what reads them back, and which runs are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from doubted_runs import NAMES, doubted_run, folder_run, read_back
from label_runs import NOISY, digits
from real_runs import tiny
from sklearn.metrics import average_precision_score, roc_auc_score

from analysis.__main__ import main
from analysis.audit.doubts import find_doubts
from analysis.audit.page import LEVELS
from repro.errors import UserError
from repro.files import read_json
from repro.training.run import execute


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_images_of_ones_own_are_listed_by_file_and_what_is_corrected_is_read_back(data: Path) -> None:
    out = data / "mine" / "audit"
    assert main(["audit", str(folder_run(data)), "--out", str(out)]) == 0
    doubted, corrected = (pd.read_csv(out / f"{name}_labels.csv") for name in ("doubted", "corrected"))
    assert doubted.loc[0, ["file", "annotated", "suggested"]].tolist() == ["7, a.png", NAMES[2], NAMES[1]]
    assert np.flatnonzero(corrected["rule"].str.startswith("another class more than")).tolist() == [3, 7]
    raw = read_back(data, "audit/corrected_labels.csv")
    assert raw.train.labels.tolist() == [number % 3 for number in range(18)]
    assert np.flatnonzero(raw.verified).tolist() == [0]
    # Names of strangers are text: the page has no markup of theirs.
    assert "<img" not in (out / "audit.html").read_text(encoding="utf-8")


def test_several_runs_are_one_list_of_all_their_images(tmp_path: Path) -> None:
    true = digits().train.labels[:30]
    every, wrong = np.arange(30), (true + 1) % 10
    observed = np.where(every == 4, wrong, true)
    runs = []
    for rows, suggested, sure in ((np.arange(20), true[4], 0.8), (np.arange(2, 30), (true[4] + 2) % 10, 0.6)):
        probabilities = np.eye(10)[true] * 0.8 + 0.02
        probabilities[4] = np.eye(10)[suggested] * sure + 0.02
        runs.append(doubted_run(tmp_path / str(len(rows)), rows, observed[rows], probabilities[rows], NOISY))
    doubts = find_doubts(runs)
    assert (doubts.rows[0], doubts.annotated[0], doubts.suggested[0], doubts.true[0]) == (4, observed[4], true[4], true[4])
    assert doubts.scores[0] < 1.0
    # Half of the runs suggest it; they keep no predictions of clean images.
    assert doubts.agreement[0] == 0.5
    assert "No label is changed: the runs kept no predictions of clean images" in doubts.in_words()
    assert doubts.by_rank() == [(1, 1.0, 1.0), (10, 0.1, 1.0), (20, 0.05, 1.0)]
    # What a run knows that predicts clean images worse hardly counts.
    mistaken = np.where(np.isin(every, [2, 7, 12, 17]), wrong, observed)
    bad = doubted_run(tmp_path / "bad", every, observed, np.eye(10)[mistaken] * 0.8 + 0.02, NOISY, **clean(0.3, sure=0.8))
    good = doubted_run(tmp_path / "good", np.arange(20), observed[:20], probabilities[:20], NOISY, **clean(0.8))
    both = find_doubts([bad, good])
    assert both.rows[0] == 4
    assert both.scores[1] < 0.5
    # Nor does it correct anything, as it would by itself.
    assert find_doubts([bad]).rule.factor is not None
    assert both.worse + both.rule_of == ["bad", "good"]
    assert "alone make the order and the rule: bad." in both.in_words()
    assert len(both.rows) == 30
    assert find_doubts([good]).worse == []
    # Runs of the same images correct by their mean: a label that only one of them would spoil stays.
    shown = np.where(every // 3 == 1, wrong, true)
    alike = []
    for spoilt in (2, 7):
        mistaken = np.where(every == spoilt, wrong, true)
        alike.append(doubted_run(tmp_path / str(spoilt), every, shown, np.eye(10)[mistaken] * 0.8 + 0.02, NOISY, **clean(0.8, 0.8)))
    for found, changed in ((find_doubts(alike[:1]), [2, 3, 4, 5]), (find_doubts(alike), [3, 4, 5])):
        assert sorted(found.rows[found.corrected != found.annotated]) == changed
    assert "as probable as the annotated one, over all visits of 2, 7." in found.in_words()
    other = doubted_run(tmp_path / "other", [4], true[[4]], probabilities[[4]], NOISY)
    with pytest.raises(UserError, match=r"other: its images are annotated otherwise than those of .*20\. Noise is drawn anew"):
        find_doubts([runs[0], other])


def clean(accuracy: float, sure: float = 0.0) -> dict[str, Any]:
    """Return what a run keeps of 50 clean images, with this accuracy in one epoch, and ``sure`` of them in the mean."""
    series = np.array([0.2, accuracy, 0.2])
    predicted = {"clean_probabilities": np.full((50, 10), (1 - sure) / 10) + sure * np.eye(10)[0], "clean_labels": np.zeros(50, np.int64)}
    return predicted | {"clean_accuracy": series, "train_accuracy": series}


def test_a_real_run_keeps_what_its_network_makes_of_clean_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = execute(tiny(tmp_path / "runs", "method=instance_labels", "noise=uniform", "noise.rate=0.4"))
    kept = np.load(run / "predictions.npz")
    # Of the trained network alone, so that the untrained one of epoch 0 is not among them.
    final = {name: values["last"] for name, values in read_json(run / "final.json").items()}
    assert (kept["clean_probabilities"].argmax(axis=1) == kept["clean_labels"]).mean() == pytest.approx(final["meta/accuracy"])
    np.testing.assert_allclose(kept["clean_probabilities"].sum(axis=1), 1.0, rtol=1e-5)
    assert main(["audit", str(run)]) == 0
    said, doubts = capsys.readouterr().out, find_doubts([run])
    found, wrong = doubts.found(), doubts.annotated != doubts.true
    assert found["average_precision"] == pytest.approx(average_precision_score(wrong, doubts.scores))
    assert found["auroc"] == pytest.approx(roc_auc_score(wrong, doubts.scores)) == final["doubt/auroc"]
    assert final["doubt/right_labels"] == found["right_after"]
    assert "doubt/trust_auroc" in final
    assert f"right after {(doubts.corrected == doubts.true).mean():.3f}" in said
    page = tmp_path / "runs" / "pages" / run.name / "audit.html"
    shown = json.loads(page.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])
    # The line of a label: in the first epoch it is close to the annotated class.
    assert all(LEVELS.index(line[0]) > LEVELS.index(line[1]) for line in shown["lines"][:20])
