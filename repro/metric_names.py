"""Every logged metric: its name, unit and definition.

Fractions lie in [0, 1]; percent appears only in tables. ``{k}`` stands for a class, as three digits.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: Series per class are logged for at most this many classes; W&B recommends fewer than 10,000 names a project.
MAX_CLASS_SERIES = 200

#: Quantiles of label metrics over the training images, in percent.
QUANTILES = (10, 50, 90)


class Metric(NamedTuple):
    """One logged number: its name, its unit, and what exactly it is."""

    name: str
    unit: str
    definition: str


#: How a ranking of annotations by how doubtful they are (:mod:`repro.labels.doubt`) is measured, and by what they are ranked.
_RANKING = {
    "auroc": "chance that a wrong annotation is ranked above a right one (area under the ROC curve)",
    "average_precision": "mean precision at each wrong annotation, down the ranking",
    "false_negative_rate": "share of the wrong annotations that are not among the first, as many as are wrong",
}
_SCORES = {"": "mean margin", "probability_": "mean probability of the annotated class", "trust_": "mean trust of the method"}

#: What each metric is, by its unit and its name: ``split/name``, or ``class_.../{k}`` for a series per class.
_DEFINITIONS = {
    "nats": {
        "train/loss": "mean over the epoch's visits of the training loss (Eq. 6), augmented images, present targets",
        "test/loss": "mean cross-entropy on the test set, running BatchNorm statistics",
        "meta/loss": "mean cross-entropy on the clean meta set, not augmented",
        "val/loss": "mean cross-entropy on the validation set; it is the meta set unless split.validation_size says otherwise",
        "peer_test/loss": "test/loss of a method's second network",
        "peer_val/loss": "val/loss of a method's second network",
        "label/entropy": "mean entropy of the targets",
        "label/entropy_clean": "mean entropy of the targets of correctly labelled images",
        "label/entropy_noisy": "mean entropy of the targets of wrongly labelled images",
        "label/entropy_q10": "10% quantile of the target's entropy over the training images",
        "label/entropy_q50": "50% quantile of the target's entropy over the training images",
        "label/entropy_q90": "90% quantile of the target's entropy over the training images",
    },
    "fraction": {
        "train/accuracy": "share of the epoch's visits at which the most probable class was the annotated one",
        "test/accuracy": "share of test images whose most probable class is right; NaN when an output is not finite",
        "meta/accuracy": "share of meta images classified correctly",
        "val/accuracy": "share of validation images classified correctly; all tuning looks at this",
        "peer_test/accuracy": "test/accuracy of a method's second network",
        "peer_val/accuracy": "val/accuracy of a method's second network; no tuning looks at it",
        "class_meta_accuracy/{k}": "share of the meta images of class k classified correctly",
        "label/target_probability": "mean over training images of the target's mass on the annotated class",
        "label/next_class_in_superclass": "share of training images whose most probable class other than the annotated one lies in the "
        "superclass of the annotated one; ties count by their share; only where the dataset publishes superclasses",
        "label/gradient_right_noisy": "share of the epoch's visits of wrongly labelled images at which moving mass from the annotated to "
        "the true class lowers the meta loss; only with trajectory.gradient=true",
        "label/gradient_right_clean": "share of the epoch's visits of correctly labelled images at which the step of Eq. 5 raises the "
        "annotated class; only with trajectory.gradient=true",
        "class_target_probability/{k}": "mean of the target's mass on k over the images annotated as k",
        "label/target_probability_q10": "10% quantile of the target's mass on the annotated class over the training images",
        "label/target_probability_q50": "50% quantile of the target's mass on the annotated class over the training images",
        "label/target_probability_q90": "90% quantile of the target's mass on the annotated class over the training images",
        "noise/label_error": "share of training images whose most probable target class is not the true one",
        "noise/label_error_noisy": "the same over wrongly labelled images",
        "noise/correction_rate": "share of wrongly labelled images whose most probable target class is now the true one",
        "noise/damage_rate": "share of correctly labelled images whose most probable target class is no longer the true one",
        "noise/top5_accuracy": "share of training images whose true class is among the five most probable of the target",
        "noise/top5_accuracy_noisy": "the same over wrongly labelled images",
        **{f"doubt/{score}{key}": f"{text}; by {by}" for key, text in _RANKING.items() for score, by in _SCORES.items()},
        "doubt/right_labels": "share of right annotations after the changes that clean images support",
        "weight/unused": "share of the epoch's visits at which an image had less than a hundredth of that weight",
    },
    "1": {
        "weight/mean": "mean over the epoch's visits of an image's weight in the training loss, where 1 is unweighted; only of methods "
        "that weigh images",
        "optim/learning_rate": "step size of the epoch just completed",
        "job/attempt": "which start of the run sent the row; above 1 it was stopped and resumed",
        "job/mirror_failures": "calls of W&B that have failed in this attempt; metrics.jsonl misses nothing",
    },
    "s": {
        "time/epoch_s": "wall-clock time of the epoch, evaluation included; not in final.json",
    },
    "image": {
        "label/heatmap": "class_target_probability of all classes (rows) over all epochs so far (columns)",
    },
}

METRICS = tuple(sorted(Metric(name, unit, text) for unit, metrics in _DEFINITIONS.items() for name, text in metrics.items()))

#: In no row of metrics.jsonl: made for W&B, or of the whole run and so only in final.json (``doubt/``).
NOT_IN_ROWS = ("label/heatmap", "job/attempt", "job/mirror_failures", *(m.name for m in METRICS if m.name.startswith("doubt/")))

_PATTERNS = [(re.compile(re.escape(metric.name).replace(r"\{k\}", r"\d{3}") + "$"), metric) for metric in METRICS]


def definition_of(name: str) -> Metric:
    """Return the metric that a logged name belongs to.

    Raises:
        KeyError: nothing of that name is defined here.
    """
    for pattern, metric in _PATTERNS:
        if pattern.match(name):
            return metric
    raise KeyError(name)


def is_headline(name: str) -> bool:
    """Say whether a logged name is a result of the run: not a series per class, not a time, not a quantile."""
    return not name.startswith(("class_", "time/", "optim/")) and "/" in name and re.search(r"_q\d\d$", name) is None
