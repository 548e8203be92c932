"""The functions that compute what is more than a mean; what each metric is stands in :mod:`repro.metric_names`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from repro.metric_names import MAX_CLASS_SERIES, QUANTILES

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


@torch.no_grad()
def label_metrics(
    targets_of: Callable[[Tensor], Tensor],
    observed: Int[Tensor, " instances"],
    true: Int[Tensor, " instances"],
    *,
    num_classes: int,
    noisy: bool,
    groups: Tensor | None = None,
    block: int = 8192,
) -> dict[str, float]:
    """Return the ``label/``, ``class_target_probability/`` and, where labels are ``noisy``, the ``noise/`` metrics of a training set.

    ``targets_of`` returns the targets (B, K) of images by their rows (B,), and is asked for ``block`` images at a time; ``observed`` and
    ``true`` are their annotated and right classes (N,), ``groups`` the superclasses (K,) where the dataset has some.
    """
    count, wrong = len(observed), observed != true

    def measured(rows: Tensor) -> dict[str, Tensor]:
        targets, annotated = targets_of(rows).double(), observed[rows]
        values = {"target_probability": targets.gather(1, annotated.unsqueeze(1)).squeeze(1), "entropy": entropy(targets)}
        values |= {name: probability_in_top(targets, true[rows], rank) for name, rank in (("first", 1), ("top", TOP))}
        if groups is not None:
            values["next_in_group"] = next_class_in_group(targets, annotated, groups).double()
        return values

    rows_of = torch.split(torch.arange(count, device=observed.device), block)
    blocks = [measured(rows) for rows in rows_of]
    sums = {name: float(sum(values[name].sum() for values in blocks)) for name in blocks[0]}
    row = {"label/target_probability": sums["target_probability"] / count, "label/entropy": sums["entropy"] / count}
    if groups is not None:
        row["label/next_class_in_superclass"] = sums["next_in_group"] / count
    places = [round(percent / 100 * (count - 1)) for percent in QUANTILES]
    for name in ("target_probability", "entropy"):
        # Sorted rather than torch.quantile, which refuses more than 2^24 numbers.
        ordered = torch.cat([values[name] for values in blocks]).sort().values
        row |= {f"label/{name}_q{percent}": value for percent, value in zip(QUANTILES, ordered[places].tolist(), strict=True)}
    if num_classes <= MAX_CLASS_SERIES:
        masses = torch.zeros(num_classes, dtype=torch.float64, device=observed.device)
        for rows, values in zip(rows_of, blocks, strict=True):
            masses += torch.zeros_like(masses).index_add_(0, observed[rows], values["target_probability"])
        # Not bincount, which asks the device how many classes there are.
        counts = torch.zeros_like(masses).index_add_(0, observed, torch.ones_like(observed, dtype=torch.float64))
        means = (masses / counts).tolist()
        row |= {f"class_target_probability/{k:03d}": mean for k, mean in enumerate(means) if not math.isnan(mean)}
    if not noisy:
        return row
    num_wrong = int(wrong.sum())
    num_right = count - num_wrong
    weights = torch.split(wrong.double(), block)
    sums_wrong = {
        name: float(sum((values[name] * of_block).sum() for values, of_block in zip(blocks, weights, strict=True))) for name in sums
    }
    row |= {"noise/label_error": 1.0 - sums["first"] / count, "noise/top5_accuracy": sums["top"] / count}
    if num_wrong > 0:
        corrected = sums_wrong["first"] / num_wrong
        row |= {
            "label/entropy_noisy": sums_wrong["entropy"] / num_wrong,
            "noise/label_error_noisy": 1.0 - corrected,
            "noise/correction_rate": corrected,
            "noise/top5_accuracy_noisy": sums_wrong["top"] / num_wrong,
        }
    if num_right > 0:
        row |= {
            "label/entropy_clean": (sums["entropy"] - sums_wrong["entropy"]) / num_right,
            "noise/damage_rate": 1.0 - (sums["first"] - sums_wrong["first"]) / num_right,
        }
    return row
