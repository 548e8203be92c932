"""The label metrics, against a count by hand."""

import math

import pytest
import torch

from repro.metric_names import METRICS, definition_of, is_headline
from repro.training.metrics import entropy, label_metrics, probability_in_top


def test_rates_by_hand() -> None:
    """Five images, three classes: three annotated wrongly, one of them repaired; two annotated rightly, one of them damaged."""
    true = torch.tensor([0, 1, 2, 0, 1])
    observed = torch.tensor([1, 2, 0, 0, 1])
    targets = torch.tensor(
        [
            [0.8, 0.1, 0.1],  # wrong, repaired
            [0.1, 0.2, 0.7],  # wrong, still
            [0.5, 0.4, 0.1],  # wrong, still
            [0.9, 0.1, 0.0],  # right, still
            [0.2, 0.3, 0.5],  # right, damaged
        ]
    )
    row = label_metrics(targets.__getitem__, observed, true, num_classes=3, noisy=True, groups=torch.tensor([0, 0, 1]), block=2)
    # The likeliest class other than the annotated one is of its group in the first, third and fourth image.
    assert row["label/next_class_in_superclass"] == pytest.approx(3 / 5)
    assert row["noise/label_error"] == pytest.approx(3 / 5)
    assert row["noise/label_error_noisy"] == pytest.approx(2 / 3)
    assert row["noise/correction_rate"] == pytest.approx(1 / 3)
    assert row["noise/damage_rate"] == pytest.approx(1 / 2)
    assert row["label/target_probability"] == pytest.approx((0.1 + 0.7 + 0.5 + 0.9 + 0.3) / 5)
    assert row["class_target_probability/000"] == pytest.approx((0.5 + 0.9) / 2)
    assert row["class_target_probability/001"] == pytest.approx((0.1 + 0.3) / 2)
    assert row["noise/top5_accuracy"] == 1.0
    by_hand = entropy(targets.double())
    assert row["label/entropy_noisy"] == pytest.approx(by_hand[:3].mean().item())
    assert row["label/entropy_clean"] == pytest.approx(by_hand[3:].mean().item())


def test_quantiles_by_hand() -> None:
    observed = torch.zeros(11, dtype=torch.int64)
    mass = torch.linspace(1.0, 0.0, 11, dtype=torch.float64)
    targets = torch.stack([mass, 1 - mass], dim=1)
    row = label_metrics(targets.__getitem__, observed, observed, num_classes=2, noisy=False, block=4)
    assert [row[f"label/target_probability_q{percent}"] for percent in (10, 50, 90)] == pytest.approx([0.1, 0.5, 0.9])
    assert row["label/entropy_q10"] == pytest.approx(0.0)
    assert row["label/entropy_q90"] == pytest.approx(entropy(torch.tensor([[0.4, 0.6]])).item())
    # Results of a run stay what they were before there were quantiles.
    assert not any(is_headline(name) for name in row if "_q" in name)
    assert is_headline("label/entropy")


def test_clean_labels_have_no_noise_metrics() -> None:
    row = label_metrics(torch.eye(3).__getitem__, torch.arange(3), torch.arange(3), num_classes=3, noisy=False)
    assert not [name for name in row if name.startswith("noise/")]


def test_ties_are_broken_evenly() -> None:
    """A label with 0.9 on a wrong class and the rest spread evenly has its true class in the top five with chance 4/99."""
    targets = torch.full((1, 100), 0.1 / 99)
    targets[0, 7] = 0.9
    assert probability_in_top(targets, torch.tensor([42]), 5).item() == pytest.approx(4 / 99)
    assert probability_in_top(targets, torch.tensor([7]), 1).item() == 1.0
    uniform = torch.full((1, 10), 0.1)
    assert probability_in_top(uniform, torch.tensor([3]), 1).item() == pytest.approx(0.1)


def test_entropy_of_one_hot_and_uniform() -> None:
    values = entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    assert values.tolist() == pytest.approx([0.0, math.log(2)])


def test_every_metric_says_what_it_is() -> None:
    names = [metric.name for metric in METRICS]
    assert len(set(names)) == len(names)
    assert all(metric.unit and metric.definition for metric in METRICS)
    assert definition_of("class_meta_accuracy/007").unit == "fraction"
    with pytest.raises(KeyError):
        definition_of("class_meta_accuracy/7")
