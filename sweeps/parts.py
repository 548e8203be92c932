"""What a spec says of runs in several places: named runs, which runs others read, and tunings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from sweeps.epochs import Epoch
from sweeps.nodes import Place
from sweeps.settings import Setting, in_order
from sweeps.tuned import Key

#: What a run can read of others: label trajectories of one or more, the model of one.
ROLES = ("labels", "teacher")


@dataclass(frozen=True)
class InputRef:
    """Which runs a run reads.

    Attributes:
        role: one of :data:`ROLES`.
        run: the name of a run.
        settings: what is put on top of that run's own.
        where: which of the runs that its ``each`` makes; empty: all.
    """

    role: str
    run: str
    settings: tuple[Setting, ...]
    where: tuple[Setting, ...]
    place: Place

    @cached_property
    def key(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """What two references to the same runs have in common."""
        return self.run, in_order(self.settings), in_order(self.where)


@dataclass(frozen=True)
class TunedRef:
    """The name of a tuning whose chosen values are put in, and where it stands."""

    name: str
    place: Place


@dataclass(frozen=True)
class Part:
    """What a row, a column, some cells or a named run say of a run."""

    settings: tuple[Setting, ...] = ()
    inputs: tuple[InputRef, ...] = ()
    tuned: tuple[TunedRef, ...] = ()


@dataclass(frozen=True)
class NamedRun:
    """A run that rows use and others read; ``each`` holds every combination of values that makes one run of it."""

    name: str
    settings: tuple[Setting, ...]
    inputs: tuple[InputRef, ...]
    tuned: tuple[TunedRef, ...]
    each: tuple[tuple[Setting, ...], ...]
    place: Place

    def selected(self, where: tuple[Setting, ...]) -> tuple[tuple[Setting, ...], ...]:
        """Return those combinations of ``each`` that have the values ``where``."""
        wanted = {setting.override for setting in where}
        return tuple(chosen for chosen in self.each if wanted <= {setting.override for setting in chosen})


@dataclass(frozen=True)
class Tuning:
    """A grid of settings, of which the best on the validation set is chosen.

    Attributes:
        axes: for each key its values.
        otherwise: the values until the tuning has been done.
        metric: what is compared, of the validation set.
        epoch: the rule it is read by: ``last`` or ``best_val``.
    """

    name: str
    settings: tuple[Setting, ...]
    inputs: tuple[InputRef, ...]
    axes: tuple[tuple[Setting, ...], ...]
    otherwise: tuple[Setting, ...]
    metric: str
    epoch: Epoch
    place: Place

    @property
    def keys(self) -> tuple[str, ...]:
        """The settings that it chooses."""
        return tuple(axis[0].key for axis in self.axes)


@dataclass(frozen=True)
class TuningUse:
    """A run's need of a tuning's values.

    Attributes:
        key: the tuning's name, the dataset and the model.
        context: the settings of the run without these values, before the scale.
        chosen: whether there are chosen values; else they are those of ``otherwise``.
    """

    tuning: Tuning
    key: Key
    context: tuple[Setting, ...]
    chosen: bool

    @property
    def place(self) -> Place:
        """Where the tuning stands."""
        return self.tuning.place

    @property
    def title(self) -> str:
        """It in words, for messages."""
        return f"tuning '{self.tuning.name}' for {', '.join(self.key[1:])}"

    def __str__(self) -> str:
        """Return it as a plan lists it: ``NAME for DATASET, MODEL``."""
        return f"{self.tuning.name} for {', '.join(self.key[1:])}"
