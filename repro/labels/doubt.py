"""Which annotations a run doubts, and which of them it may change: made of ``predictions.npz`` alone, without PyTorch.

An image is the more doubtful, the lower its mean margin (:mod:`repro.labels.predictions`): in trials it ranked wrong annotations better
than mean probabilities, the method's trust, the label that was learned, or ranks of several of them together.

A label may be changed to the likeliest other class where that class was, in the mean, at least so many times as probable as the annotated
one. How many times is chosen on images whose labels are right and that the network was not trained on, as if some of them were annotated
wrongly. They may tell that nothing is to be changed. Since a network remembers what it was trained on, and is surer of it, the share of
labels that would be changed is taken over to the training images, not the ratio.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from repro.data.types import Labels
from repro.errors import UserError
from repro.runs import manifest

FILE = "predictions.npz"

#: What is tried: so many times as probable must the other class be.
FACTORS = (1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 50.0, 100.0)

#: By so much must a factor flag more of the wrong than of the right labels to tell how many there are of each.
_TOLD_APART = 0.05

#: So many epochs in a row tell a noise rate together.
_EPOCHS = 5

#: Keeps ratios of probabilities finite.
_TINY = 1e-12

Kind = TypeVar("Kind", bound=np.generic)
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MeanPredictions:
    """What ``predictions.npz`` holds of N training and M clean images, as :mod:`repro.labels.predictions` describes it; M may be 0.

    ``trust`` is ``None`` where the method has none.
    """

    indices: Labels
    observed: Labels
    probabilities: Floats
    margins: Floats
    trust: Floats | None
    clean_probabilities: Floats
    clean_labels: Labels
    clean_accuracy: Floats
    train_accuracy: Floats


def read_predictions(folder: Path) -> MeanPredictions:
    """Return what the finished run in ``folder`` kept of its predictions.

    Raises:
        UserError: it kept none, they are not as it wrote them, or it had diverged.
    """
    if FILE not in manifest.listed_files(folder):
        raise UserError(f"{folder} has no {FILE}: it was trained with trajectory.predictions=false, or before there was one.")
    found = parse(manifest.read_bytes(folder, FILE))
    if not np.isfinite(found.probabilities).all():
        raise UserError(f"{folder} had diverged: its predictions are not finite. Train it with a lower learning rate.")
    return found


def parse(content: bytes) -> MeanPredictions:
    """Return what a ``predictions.npz`` of this content holds, in float64; numbers that are not finite are left as they are."""
    kept = dict(np.load(io.BytesIO(content)))
    fields: dict[str, Any] = {name: kept.get(name, np.empty(0)) for name in MeanPredictions.__dataclass_fields__}
    floats = {name: values.astype(np.float64) for name, values in fields.items() if values.dtype.kind == "f"}
    return MeanPredictions(**fields | floats | ({} if "trust" in kept else {"trust": None}))


def mean_of(runs: Sequence[MeanPredictions]) -> MeanPredictions:
    """Return the mean predictions of ``runs`` of the same training and clean images and as many epochs; the rest is that of the first."""
    names = ("probabilities", "clean_probabilities", "clean_accuracy", "train_accuracy")
    return replace(runs[0], **{name: np.mean([getattr(run, name) for run in runs], axis=0) for name in names})


def own(values: npt.NDArray[Kind], classes: Labels) -> npt.NDArray[Kind]:
    """Return, of ``values`` (N, K) of each image and class, those (N,) of the classes (N,) of the images."""
    return np.take_along_axis(values, classes[:, None], axis=1)[:, 0]


def likeliest_others(probabilities: Floats) -> Labels:
    """Return, for each image and each class that it may be annotated with, the most probable of the other classes (N, K)."""
    ordered = np.argsort(probabilities, axis=1, kind="stable")
    first, second = ordered[:, -1:], ordered[:, -2:-1]
    return np.where(np.arange(probabilities.shape[1]) == first, second, first)


def ratios(probabilities: Floats, others: Labels) -> Floats:
    """Return how many times as probable as each class (N, K) the likeliest other one of ``others`` (N, K) is."""
    ratio: Floats = np.take_along_axis(probabilities, others, axis=1) / np.maximum(probabilities, _TINY)
    return ratio


def annotated_ratios(found: MeanPredictions) -> Floats:
    """Return, of each training image (N,), how many times as probable as its annotated class the likeliest other one was."""
    return own(ratios(found.probabilities, likeliest_others(found.probabilities)), found.observed)


def noise_rate(found: MeanPredictions) -> float:
    """Return the share of training images that seem to be annotated wrongly; there must be clean images.

    It is the largest of what each factor and each few epochs in a row tell. Of the training images a factor flags s, of right labels of
    the clean images r and of wrong ones w, where a label is wrong in each other way equally often: the rate is (s - r) / (w - r). At an
    accuracy a on clean images the network predicts any one of the other K - 1 classes at c = (1 - a) / (K - 1), and of the annotations it
    predicts t: the rate is (a - t) / (a - c). As it remembers annotations, both are rather too low, the second least in early epochs: in
    trials the rate was between a half and 1.1 times the true one, and less where one class is mistaken for one other.
    """
    clean, labels = found.clean_probabilities, found.clean_labels
    trained = annotated_ratios(found)
    ratio, is_right = ratios(clean, likeliest_others(clean)), np.arange(clean.shape[1]) == labels[:, None]
    # The training images are met while an epoch lasts.
    accuracy = (found.clean_accuracy[1:] + found.clean_accuracy[:-1]) / 2
    apart = accuracy - (1.0 - accuracy) / (clean.shape[1] - 1)
    told = apart > _TOLD_APART
    by_epoch = (accuracy - found.train_accuracy[1:])[told] / apart[told]
    rates = [0.0, *np.convolve([0.0, *by_epoch], np.full(_EPOCHS, 1 / _EPOCHS), "valid")]
    for factor in FACTORS:
        # One more right label that is flagged: of a few clean images none says little.
        right, wrong = ((ratio[is_right] > factor).sum() + 1) / (len(labels) + 1), (ratio[~is_right] > factor).mean()
        if wrong - right > _TOLD_APART:
            rates.append(((trained > factor).mean() - right) / (wrong - right))
    return float(min(max(rates), 1.0))


@dataclass(frozen=True)
class Rule:
    """How labels are changed.

    Attributes:
        rate: share of wrong annotations that was estimated.
        clean: how many clean images there were.
        factor: so many times as probable must another class be in training; ``None``: nothing is changed.
        gain: what it adds to the share of right labels among the clean images, if that share of them were annotated wrongly.
        error: standard error of the gain.
    """

    rate: float
    clean: int
    factor: float | None
    gain: float = 0.0
    error: float = 0.0


def choose_rule(found: MeanPredictions) -> Rule:
    """Return the rule whose gain on clean images is the largest, less its standard error; none where that is not above 0.

    A clean image is annotated with its own class, or, at the estimated rate, with each other class equally often. A change of the right
    label is a loss, one from a wrong to the right label a gain, one from a wrong label to another neither. The rule changes as many of the
    annotations as the best of :data:`FACTORS` changes of these.
    """
    labels, clean = found.clean_labels, found.clean_probabilities
    if not len(labels):
        return Rule(0.0, 0, None)
    rate, others = noise_rate(found), likeliest_others(clean)
    ratio, is_right = ratios(clean, others), np.arange(clean.shape[1]) == labels[:, None]
    often = np.where(is_right, 1.0 - rate, rate / (clean.shape[1] - 1))
    value = np.where(is_right, -often, (others == labels[:, None]) * often)
    trained = annotated_ratios(found)
    best = Rule(rate, len(labels), None)
    for factor in FACTORS:
        changed = ratio > factor
        # One more clean image, whose label is spoilt: that none of a few is says little.
        gains = np.append((value * changed).sum(axis=1), rate - 1.0)
        gain, error = float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
        # Of equal ones the last, which changes least.
        if gain - error > 0.0 and gain - error >= best.gain - best.error:
            share = (often * changed).sum() / len(labels)
            best = Rule(rate, len(labels), float(np.quantile(trained, 1.0 - share)), gain, error)
    return best


def corrected(found: MeanPredictions, rule: Rule) -> Labels:
    """Return the annotations (N,) after ``rule``: the likeliest other class where it is more than ``factor`` times as probable."""
    if rule.factor is None:
        return found.observed
    suggested = own(likeliest_others(found.probabilities), found.observed)
    return np.where(annotated_ratios(found) > rule.factor, suggested, found.observed)


def measure(found: MeanPredictions, true: Labels) -> dict[str, float]:
    """Return the metrics ``doubt/...`` of a run whose ``true`` classes (N,) are known; none if no annotation, or each, is wrong.

    Each score, lowest first, is measured by :func:`ranking`; the share of right labels is that after the rule. All are fractions.
    """
    wrong = found.observed != true
    if wrong.all() or not wrong.any():
        return {}
    scores = {"": found.margins, "probability_": own(found.probabilities, found.observed), "trust_": found.trust}
    ranked = {name: ranking(-score, wrong) for name, score in scores.items() if score is not None}
    measured = {f"doubt/{name}{key}": value for name, values in ranked.items() for key, value in values.items()}
    return measured | {"doubt/right_labels": float((corrected(found, choose_rule(found)) == true).mean())}


def ranking(scores: Floats, wrong: npt.NDArray[np.bool_]) -> dict[str, float]:
    """Return how well ``scores`` (N,), high where doubtful, find the ``wrong`` (N,) annotations, of which there must be some, but not all.

    ``auroc``: area under the receiver operating characteristic. ``average_precision``: mean precision at each wrong one, down the list.
    ``false_negative_rate``: share of the wrong ones that is not found where as many images are flagged as are wrong.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score  # takes some tenths of a second, and most runs have no noise

    flagged = np.argsort(-scores, kind="stable")[: wrong.sum()]
    return {
        "auroc": float(roc_auc_score(wrong, scores)),
        "average_precision": float(average_precision_score(wrong, scores)),
        "false_negative_rate": float(1.0 - wrong[flagged].mean()),
    }
