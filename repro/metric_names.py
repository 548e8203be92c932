"""Every logged metric: its name, unit, direction and definition.

Fractions lie in [0, 1]; percent appears only in tables. ``{k}`` stands for a class, as three digits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Series per class are logged for at most this many classes; W&B recommends fewer than 10,000 names a project.
MAX_CLASS_SERIES = 200

#: Quantiles of label metrics over the training images, in percent.
QUANTILES = (10, 50, 90)


@dataclass(frozen=True)
class Metric:
    """One logged number.

    Attributes:
        name: ``split/name``, or ``class_.../{k}`` for a series per class.
        unit: what the number counts.
        better: ``higher``, ``lower``, or ``neither``.
        definition: what exactly it is.
        mirror_only: it is made for W&B from the files of the run folder, and stands in no file itself.
    """

    name: str
    unit: str
    better: str
    definition: str
    mirror_only: bool = False


METRICS: tuple[Metric, ...] = (
    Metric("train/loss", "nats", "lower", "mean over the epoch's visits of the training loss (Eq. 6), augmented images, present targets"),
    Metric("train/accuracy", "fraction", "higher", "share of the epoch's visits at which the most probable class was the annotated one"),
    Metric("test/loss", "nats", "lower", "mean cross-entropy on the test set, running BatchNorm statistics"),
    Metric(
        "test/accuracy", "fraction", "higher", "share of test images whose most probable class is right; NaN when an output is not finite"
    ),
    Metric("meta/loss", "nats", "lower", "mean cross-entropy on the clean meta set, not augmented"),
    Metric("meta/accuracy", "fraction", "higher", "share of meta images classified correctly"),
    Metric(
        "val/loss",
        "nats",
        "lower",
        "mean cross-entropy on the validation set; it is the meta set unless split.validation_size says otherwise",
    ),
    Metric("val/accuracy", "fraction", "higher", "share of validation images classified correctly; all tuning looks at this"),
    Metric("peer_test/loss", "nats", "lower", "test/loss of a method's second network"),
    Metric("peer_test/accuracy", "fraction", "higher", "test/accuracy of a method's second network"),
    Metric("peer_val/loss", "nats", "lower", "val/loss of a method's second network"),
    Metric("peer_val/accuracy", "fraction", "higher", "val/accuracy of a method's second network; no tuning looks at it"),
    Metric("class_meta_accuracy/{k}", "fraction", "higher", "share of the meta images of class k classified correctly"),
    Metric("label/target_probability", "fraction", "neither", "mean over training images of the target's mass on the annotated class"),
    Metric(
        "label/next_class_in_superclass",
        "fraction",
        "neither",
        "share of training images whose most probable class other than the annotated one lies in the superclass of the annotated one; ties "
        "count by their share; only where the dataset publishes superclasses",
    ),
    *(
        Metric(
            f"label/gradient_right_{kind}",
            "fraction",
            "higher",
            f"share of the epoch's visits of {what}; only with trajectory.gradient=true",
        )
        for kind, what in (
            ("noisy", "wrongly labelled images at which moving mass from the annotated to the true class lowers the meta loss"),
            ("clean", "correctly labelled images at which the step of Eq. 5 raises the annotated class"),
        )
    ),
    Metric("label/entropy", "nats", "neither", "mean entropy of the targets"),
    Metric("label/entropy_clean", "nats", "neither", "mean entropy of the targets of correctly labelled images"),
    Metric("label/entropy_noisy", "nats", "neither", "mean entropy of the targets of wrongly labelled images"),
    Metric("class_target_probability/{k}", "fraction", "neither", "mean of the target's mass on k over the images annotated as k"),
    *(
        Metric(f"label/{what}_q{percent}", unit, "neither", f"{percent}% quantile of {of} over the training images")
        for what, unit, of in (
            ("target_probability", "fraction", "the target's mass on the annotated class"),
            ("entropy", "nats", "the target's entropy"),
        )
        for percent in QUANTILES
    ),
    Metric("noise/label_error", "fraction", "lower", "share of training images whose most probable target class is not the true one"),
    Metric("noise/label_error_noisy", "fraction", "lower", "the same over wrongly labelled images"),
    Metric(
        "noise/correction_rate",
        "fraction",
        "higher",
        "share of wrongly labelled images whose most probable target class is now the true one",
    ),
    Metric(
        "noise/damage_rate",
        "fraction",
        "lower",
        "share of correctly labelled images whose most probable target class is no longer the true one",
    ),
    Metric(
        "noise/top5_accuracy",
        "fraction",
        "higher",
        "share of training images whose true class is among the five most probable of the target",
    ),
    Metric("noise/top5_accuracy_noisy", "fraction", "higher", "the same over wrongly labelled images"),
    Metric(
        "weight/mean",
        "1",
        "neither",
        "mean over the epoch's visits of an image's weight in the training loss, where 1 is unweighted; only of methods that weigh images",
    ),
    Metric(
        "weight/unused", "fraction", "neither", "share of the epoch's visits at which an image had less than a hundredth of that weight"
    ),
    Metric("optim/learning_rate", "1", "neither", "step size of the epoch just completed"),
    Metric("time/epoch_s", "s", "lower", "wall-clock time of the epoch, evaluation included; not in final.json"),
    Metric("label/heatmap", "image", "neither", "class_target_probability of all classes (rows) over all epochs so far (columns)", True),
    Metric("job/attempt", "1", "neither", "which start of the run sent the row; above 1 it was stopped and resumed", True),
    Metric("job/mirror_failures", "1", "lower", "calls of W&B that have failed in this attempt; metrics.jsonl misses nothing", True),
)

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
