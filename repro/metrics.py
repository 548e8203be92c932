"""The functions that compute what is more than a mean; what each metric is stands in :mod:`repro.metric_names`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repro.metric_names import QUANTILES

#: Series per class are logged for at most this many classes; W&B recommends fewer than 10,000 names a project.
MAX_CLASS_SERIES = 200

#: Rank that the label top-5 accuracy of Figure 4 looks at.
TOP = 5


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


def next_class_in_group(
    distributions: Float[Tensor, "batch classes"], classes: Int[Tensor, " batch"], groups: Int[Tensor, " classes"]
) -> Float[Tensor, " batch"]:
    """Return, for each row of ``distributions`` (B, K), the chance that the likeliest class other than ``classes`` (B,) is of its group.

    Equal probabilities are ordered at random, as in :func:`probability_in_top`. ``groups`` (K,) numbers the group of each class.
    """
    others = distributions.scatter(1, classes.unsqueeze(1), -1.0)
    highest = others == others.max(dim=1, keepdim=True).values
    same = groups == groups[classes].unsqueeze(1)
    return (highest & same).sum(dim=1) / highest.sum(dim=1)


@dataclass
class LabelTotals:
    """Sums over the training images from which the label metrics follow; filled block by block, on the device.

    ``groups`` (K,) are the superclasses, where the dataset has some.
    """

    num_classes: int
    groups: Tensor | None = None
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
        if self.groups is not None:
            block["next_in_group"] = next_class_in_group(targets, observed, self.groups).double().sum()
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
        if "next_in_group" in sums:
            row["label/next_class_in_superclass"] = sums["next_in_group"] / count
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
