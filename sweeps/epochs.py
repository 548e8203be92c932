"""Which number of a run a spec means: the names of metrics, and where in the run they are read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from repro.errors import did_you_mean
from sweeps.nodes import Entry, Place, shortened

#: Where in a run a value is read: after the last epoch, at the best validation accuracy, at the best test accuracy.
EPOCH_RULES = ("last", "best_val", "best_test")

_METRIC = re.compile(r"\w+/\w+", re.ASCII)
_FAMILY = re.compile(r"\w+/(\w+|\{k\})", re.ASCII)


@dataclass(frozen=True)
class Epoch:
    """Where in a run a value is read: one of :data:`EPOCH_RULES`, or after ``number`` completed epochs (rule ``epoch``).

    Attributes:
        place: where a file says so.
    """

    rule: str
    number: int | None = None
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the rule as a spec writes it."""
        return self.rule if self.number is None else f"epoch {self.number}"


def read_metric(entry: Entry, *, family: bool = False) -> str:
    """Return the name of a metric; ``family`` says whether it may be a series per class, ``class_meta_accuracy/{k}``.

    Raises:
        SpecError: it cannot be one.
    """
    metric = entry.text()
    if not (_FAMILY if family else _METRIC).fullmatch(metric):
        raise entry.wrong("the name of a metric, such as test/accuracy")
    return metric


def read_epoch(entry: Entry, *, numbered: str | None = None) -> Epoch:
    """Return an epoch rule; ``numbered`` is the rule that stands for every ``epoch N`` at a scale with other epochs.

    Raises:
        SpecError: there is no such rule.
    """
    rule = entry.text()
    number = re.fullmatch(r"epoch ([1-9]\d{0,8})", rule, re.ASCII)
    if number:
        return Epoch("epoch", int(number[1]), entry.place) if numbered is None else Epoch(numbered, place=entry.place)
    if rule not in EPOCH_RULES:
        raise entry.place.error(
            f"{entry.name}: there is no epoch rule '{shortened(rule)}'.{did_you_mean(rule, EPOCH_RULES)} "
            f"Allowed: {', '.join(EPOCH_RULES)}, or 'epoch N' with N completed epochs, from 1."
        )
    return Epoch(rule, place=entry.place)
