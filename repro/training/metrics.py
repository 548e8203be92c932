"""The functions that compute what is more than a mean; what each metric is stands in :mod:`repro.metric_names`."""

from __future__ import annotations

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
    count, wrong = len(observed), torch.split((observed != true).double(), block)
    columns: dict[str, list[Tensor]] = {}
    class_mass = torch.zeros(num_classes, dtype=torch.float64, device=observed.device)
    for rows in torch.split(torch.arange(count, device=observed.device), block):
        targets, own = targets_of(rows).double(), observed[rows]
        mass = targets.gather(1, own.unsqueeze(1)).squeeze(1)
        class_mass += torch.zeros_like(class_mass).index_add_(0, own, mass)
        found = {"target_probability": mass, "entropy": entropy(targets)}
        found |= {name: probability_in_top(targets, true[rows], rank) for name, rank in (("first", 1), ("top", TOP))}
        if groups is not None:
            found["next_in_group"] = next_class_in_group(targets, own, groups).double()
        for name, values in found.items():
            columns.setdefault(name, []).append(values)

    def total(name: str) -> float:
        return float(sum(values.sum() for values in columns[name]))

    def total_wrong(name: str) -> float:
        return float(sum((values * weights).sum() for values, weights in zip(columns[name], wrong, strict=True)))

    row = {"label/target_probability": total("target_probability") / count, "label/entropy": total("entropy") / count}
    if groups is not None:
        row["label/next_class_in_superclass"] = total("next_in_group") / count
    places = [round(percent / 100 * (count - 1)) for percent in QUANTILES]
    for name in ("target_probability", "entropy"):
        # Sorted rather than torch.quantile, which refuses more than 2^24 numbers.
        ordered = torch.cat(columns[name]).sort().values
        row |= {f"label/{name}_q{percent}": value for percent, value in zip(QUANTILES, ordered[places].tolist(), strict=True)}
    if num_classes <= MAX_CLASS_SERIES:
        members = (
            torch.zeros(num_classes, device=observed.device)
            .index_add_(0, observed, torch.ones_like(observed, dtype=torch.float32))
            .tolist()
        )
        masses = zip(class_mass.tolist(), members, strict=True)
        row |= {f"class_target_probability/{k:03d}": mass / size for k, (mass, size) in enumerate(masses) if size > 0}
    if not noisy:
        return row
    num_wrong = int(sum(weights.sum() for weights in wrong))
    num_right = count - num_wrong
    row |= {"noise/label_error": 1.0 - total("first") / count, "noise/top5_accuracy": total("top") / count}
    if num_wrong > 0:
        corrected = total_wrong("first") / num_wrong
        row |= {
            "label/entropy_noisy": total_wrong("entropy") / num_wrong,
            "noise/label_error_noisy": 1.0 - corrected,
            "noise/correction_rate": corrected,
            "noise/top5_accuracy_noisy": total_wrong("top") / num_wrong,
        }
    if num_right > 0:
        row |= {
            "label/entropy_clean": (total("entropy") - total_wrong("entropy")) / num_right,
            "noise/damage_rate": 1.0 - (total("first") - total_wrong("first")) / num_right,
        }
    return row
