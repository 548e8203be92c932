"""What the peers in finding wrong labels are shown and find; each column, seed and number of epochs has a line, and runs together."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import wrong_labels
from repro.config.compose import compose
from repro.data.prepare import LabelledImages, prepare
from repro.errors import UserError
from repro.training.loop import Training


def test_each_image_is_judged_by_a_network_that_has_not_seen_it(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["method=one_hot", "dataset=digits", "dataset.train_size=300", "noise=uniform", "noise.rate=0.4", "seed=0"]
    config = wrong_labels.with_epochs(compose([*settings, "split.validation_size=50"]), 1)
    seen, judged = [], []
    monkeypatch.setattr(Training, "take_step", lambda training, _: seen.append(training.data.train.images))

    def measure(model: object, images: LabelledImages) -> object:
        judged.append(images.images)
        return SimpleNamespace(probabilities=images.images.flatten(1)[:, :10], accuracy=0.5)

    data = prepare(config, torch.device("cpu"))
    accuracy, probabilities = wrong_labels.out_of_sample(config, data, measure)
    # In the order of the data.
    assert (torch.from_numpy(probabilities) == data.train.images.flatten(1)[:, :10]).all()
    assert accuracy == 0.5
    # At the steps of the folds, which are equally many, and between two looks at the validation set.
    for training, unseen in zip(seen[:: len(seen) // 5], judged[::2], strict=True):
        assert len(training) + len(unseen) == 250
        inputs = data.transform(unseen, None).flatten(1)
        assert torch.cdist(inputs, training.flatten(1)).min() > 0.0
    # The clean images are trained on, too, unless they alone tell how long to train.
    assert len(wrong_labels.with_clean(data)) == 250
    assert len(wrong_labels.with_clean(prepare(compose(settings), torch.device("cpu")))) == 200


def test_each_column_seed_and_number_of_epochs_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(wrong_labels, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="cleanlab is not installed"):
        wrong_labels.main([])
    monkeypatch.setattr(wrong_labels, "find_spec", lambda name: name)
    monkeypatch.setattr(wrong_labels, "make_deterministic", lambda **_: None)
    monkeypatch.setattr(wrong_labels, "judged", lambda config, peer: {"trained": config.optim.epochs, "by": peer})
    wrong_labels.main(["--only", "Digits", "--epochs", "1", "2"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(line.values())[1:] for line in lines] == [
        (seed, f"{peer}, {epochs} epochs", epochs, peer)
        for seed in (0, 1, 2)
        for peer in ("cleanlab", "nearest neighbours")
        for epochs in (1, 2)
    ]


def test_runs_of_several_rows_are_one_list(monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [SimpleNamespace(row=row, column=column, run_ids=[f"{row}{column}{seed}" for seed in "01"]) for row in "AB" for column in "XY"]

    def find_doubts(folders: list[Path]) -> object:
        names = [path.name for path in folders]
        records = [{"fields": {"seed": int(name[-1])}, "cost": {"cpu_s": 10.0}} for name in names]
        return SimpleNamespace(records=records, found=lambda: {"of": names})

    monkeypatch.setattr(wrong_labels, "find_doubts", find_doubts)
    lines = list(wrong_labels.together(cells, ["B", "A"], Path("runs")))
    assert [(line["column"], line["seed"]) for line in lines] == [("X", 0), ("X", 1), ("Y", 0), ("Y", 1)]
    assert (lines[1]["what"], lines[1]["of"], lines[1]["cpu_s"]) == ("B and A", ["BX1", "AX1"], 20.0)
    with pytest.raises(UserError, match="--together: there is no row C, D"):
        wrong_labels.main(["--only", "Digits", "--together", "One-hot", "D", "C"])


@pytest.mark.parametrize("peer", ["cleanlab", "nearest neighbours"])
def test_what_a_peer_finds(peer: str) -> None:
    if peer == "cleanlab":
        pytest.importorskip("cleanlab", reason="cleanlab is not installed; pip install -e '.[bench]' brings it")
    settings = ["method=one_hot", "dataset=digits", "noise=uniform", "noise.rate=0.2", "seed=0"]
    found = wrong_labels.judged(wrong_labels.with_epochs(compose(settings), 3), peer)
    assert found["average_precision"] > 0.8
    assert found["right_before"] < found["right_after"]
    assert found["val_accuracy"] > 0.8
