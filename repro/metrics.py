"""Every logged metric: its name, unit, direction and definition, and the functions that compute what is more than a mean.

Fractions lie in [0, 1]; percent appears only in tables. ``{k}`` stands for a class, as three digits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

#: Series per class are logged for at most this many classes; W&B recommends fewer than 10,000 names a project.
MAX_CLASS_SERIES = 200

#: Quantiles of label metrics over the training images, in percent.
QUANTILES = (10, 50, 90)

#: Rank that the label top-5 accuracy of Figure 4 looks at.
TOP = 5


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
    Metric("meta/accuracy", "fraction", "higher", "share of meta images classified rightly"),
    Metric(
        "val/loss",
        "nats",
        "lower",
        "mean cross-entropy on the validation set; it is the meta set unless split.validation_size says otherwise",
    ),
    Metric("val/accuracy", "fraction", "higher", "share of validation images classified rightly; all tuning looks at this"),
    Metric("peer_test/loss", "nats", "lower", "test/loss of a method's second network"),
    Metric("peer_test/accuracy", "fraction", "higher", "test/accuracy of a method's second network"),
    Metric("peer_val/loss", "nats", "lower", "val/loss of a method's second network"),
    Metric("peer_val/accuracy", "fraction", "higher", "val/accuracy of a method's second network; no tuning looks at it"),
    Metric("class_meta_accuracy/{k}", "fraction", "higher", "share of the meta images of class k classified rightly"),
    Metric("label/target_probability", "fraction", "neither", "mean over training images of the target's mass on the annotated class"),
    Metric("label/entropy", "nats", "neither", "mean entropy of the targets"),
    Metric("label/entropy_clean", "nats", "neither", "mean entropy of the targets of rightly annotated images"),
    Metric("label/entropy_noisy", "nats", "neither", "mean entropy of the targets of wrongly annotated images"),
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
    Metric("noise/label_error_noisy", "fraction", "lower", "the same over wrongly annotated images"),
    Metric(
        "noise/correction_rate",
        "fraction",
        "higher",
        "share of wrongly annotated images whose most probable target class is now the true one",
    ),
    Metric(
        "noise/damage_rate",
        "fraction",
        "lower",
        "share of rightly annotated images whose most probable target class is no longer the true one",
    ),
    Metric(
        "noise/top5_accuracy",
        "fraction",
        "higher",
        "share of training images whose true class is among the five most probable of the target",
    ),
    Metric("noise/top5_accuracy_noisy", "fraction", "higher", "the same over wrongly annotated images"),
    Metric("optim/learning_rate", "1", "neither", "step size of the epoch just completed"),
    Metric("time/epoch_s", "s", "lower", "wall-clock time of the epoch, evaluation included; not in final.json"),
    Metric("label/heatmap", "image", "neither", "class_target_probability of all classes (rows) over all epochs so far (columns)", True),
    Metric("label/entropy_histogram", "images", "neither", "entropies (nats) of instance labels at their visits in the epoch", True),
    Metric("label/class_parameter_histogram", "classes", "neither", "the parameters of class labels after the epoch", True),
    Metric("job/attempt", "1", "neither", "which start of the run wrote the row; above 1 it was stopped and went on", True),
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


def entropy(distributions: Float[Tensor, "batch classes"]) -> Float[Tensor, " batch"]:
    """Return the entropy in nats (B,) of each row of ``distributions`` (B, K)."""
    terms: Tensor = torch.special.entr(distributions)
    return terms.sum(dim=1)


def probability_in_top(distributions: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"], rank: int) -> Float[Tensor, " batch"]:
    """Return, for each row of ``distributions`` (B, K), the chance that ``classes`` (B,) is among its ``rank`` most probable.

    Equal probabilities are ordered at random, and the expectation over that order is returned: a label that is uniform over the
    other 99 classes has its true class in the top five with a chance of 4/99, not by the accident of its index (G8).
    """
    own = distributions.gather(1, classes.unsqueeze(1))
    above = (distributions > own).sum(dim=1)
    tied = (distributions == own).sum(dim=1)
    return ((rank - above) / tied).clamp(0.0, 1.0)


@dataclass
class LabelTotals:
    """Sums over the training images from which the label metrics follow; filled block by block, on the device."""

    num_classes: int
    num_instances: int = 0

    def __post_init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._of_images: dict[str, list[Tensor]] = {"target_probability": [], "entropy": []}

    def add(self, targets: Float[Tensor, "batch classes"], observed: Int[Tensor, " batch"], true: Int[Tensor, " batch"]) -> None:
        """Add a block: targets (B, K), annotated classes (B,), true classes (B,)."""
        targets = targets.double()
        self.num_instances += len(targets)
        wrong = (observed != true).double()
        mass = targets.gather(1, observed.unsqueeze(1)).squeeze(1)
        block = {
            "mass": mass.sum(),
            "wrong": wrong.sum(),
            "entropy": (row_entropy := entropy(targets)).sum(),
            "entropy_wrong": (row_entropy * wrong).sum(),
            "class_mass": torch.zeros(self.num_classes, dtype=torch.float64, device=targets.device).index_add_(0, observed, mass),
            "class_count": torch.zeros(self.num_classes, dtype=torch.float64, device=targets.device).index_add_(
                0, observed, torch.ones_like(mass)
            ),
        }
        for name, rank in (("first", 1), ("top", TOP)):
            hit = probability_in_top(targets, true, rank)
            block[name] = hit.sum()
            block[f"{name}_wrong"] = (hit * wrong).sum()
        self._of_images["target_probability"].append(mass)
        self._of_images["entropy"].append(row_entropy)
        for name, value in block.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value

    def metrics(self, *, noisy: bool) -> dict[str, float]:
        """Return the ``label/``, ``class_target_probability/`` and, where labels are noisy, the ``noise/`` metrics."""
        sums: dict[str, Any] = {name: value.tolist() for name, value in self._sums.items()}
        count, wrong = self.num_instances, sums["wrong"]
        row = {
            "label/target_probability": sums["mass"] / count,
            "label/entropy": sums["entropy"] / count,
        }
        for name, blocks in self._of_images.items():
            # Sorted rather than torch.quantile, which refuses more than 2^24 numbers.
            ordered = torch.cat(blocks).sort().values
            places = [round(percent / 100 * (count - 1)) for percent in QUANTILES]
            row |= {f"label/{name}_q{percent}": value for percent, value in zip(QUANTILES, ordered[places].tolist(), strict=True)}
        if self.num_classes <= MAX_CLASS_SERIES:
            row |= {
                f"class_target_probability/{k:03d}": mass / members
                for k, (mass, members) in enumerate(zip(sums["class_mass"], sums["class_count"], strict=True))
                if members > 0
            }
        if noisy:
            right = count - wrong
            row |= {
                "noise/label_error": 1.0 - sums["first"] / count,
                "noise/top5_accuracy": sums["top"] / count,
            }
            if wrong > 0:
                row |= {
                    "label/entropy_noisy": sums["entropy_wrong"] / wrong,
                    "noise/label_error_noisy": 1.0 - sums["first_wrong"] / wrong,
                    "noise/correction_rate": sums["first_wrong"] / wrong,
                    "noise/top5_accuracy_noisy": sums["top_wrong"] / wrong,
                }
            if right > 0:
                row |= {
                    "label/entropy_clean": (sums["entropy"] - sums["entropy_wrong"]) / right,
                    "noise/damage_rate": 1.0 - (sums["first"] - sums["first_wrong"]) / right,
                }
        return row
