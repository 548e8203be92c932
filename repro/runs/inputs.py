"""The finished runs that a run reads: label trajectories of others, or a teacher's model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.config import registry
from repro.config.schema import Config
from repro.errors import UserError
from repro.files import number
from repro.runs.manifest import read_json
from repro.runs.state import corruption, read_state

#: What a run can read, as the fields of :class:`repro.config.schema.InputsConfig` are called.
ROLES = ("labels", "teacher")


@dataclass(frozen=True)
class InputRun:
    """A finished run that another one reads; ``fields`` is every setting of its identity, flat, as ``optim.epochs``."""

    run_id: str
    folder: Path
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Inputs:
    """What a run reads; both are empty for most."""

    labels: tuple[InputRun, ...] = field(default=())
    teacher: InputRun | None = None

    @property
    def all(self) -> tuple[InputRun, ...]:
        """Every run that is read."""
        return (*self.labels, *(() if self.teacher is None else (self.teacher,)))


def check_inputs(config: Config) -> None:
    """Check that the inputs named are those that the method reads, without looking at them.

    Raises:
        UserError: an input is missing, named twice, or not read by the method.
    """
    name = config.method.name
    reads = registry.get("method", name).build.reads_inputs(config.method)
    if len(set(config.inputs.labels)) < len(config.inputs.labels):
        raise UserError(f"inputs.labels={config.inputs.labels}: a run is given twice, and its labels would count twice.")
    for role in ROLES:
        given = getattr(config.inputs, role)
        if given and role not in reads:
            raise UserError(f"inputs.{role} is set, but method={name} with its present settings reads none. Leave it out.")
        if not given and role in reads:
            example = "inputs.labels=[RUN_ID,...]" if role == "labels" else "inputs.teacher=RUN_ID"
            raise UserError(f"method={name} reads other runs: set {example}. `python -m sweeps` finds and trains them by itself.")


def open_inputs(config: Config) -> Inputs:
    """Return the inputs of the run of ``config``, all of them done.

    Raises:
        UserError: as :func:`check_inputs`; an input has no folder, is not done, corrupted, diverged, or trained on another dataset.
    """
    check_inputs(config)
    runs = Path(config.paths.runs)
    labels = tuple(_open(runs / name, config) for name in config.inputs.labels)
    teacher = None if config.inputs.teacher is None else _open(runs / config.inputs.teacher, config)
    return Inputs(labels, teacher)


def _open(folder: Path, config: Config) -> InputRun:
    name = folder.name
    if not folder.is_dir():
        raise UserError(f"input {name}: there is no such run in {folder.parent}. Train it first, or use `python -m sweeps run`.")
    state = read_state(folder)
    if state != "done":
        raise UserError(f"input {name} is {state}, not done. {corruption(folder) or 'Finish it first: a run reads finished runs only.'}")
    identity, final = read_json(folder, "identity.json"), read_json(folder, "final.json")
    fields = dict(identity["fields"])
    if identity["run_id"] != name:
        raise UserError(f"input {name}: the folder holds another run ({identity['run_id']}).")
    test_accuracy = number(final["test/accuracy"]["last"])
    if test_accuracy != test_accuracy:
        raise UserError(f"input {name} has diverged: its labels and its model are of no use. Change its settings.")
    if fields["dataset.name"] != config.dataset.name:
        raise UserError(f"input {name} was trained on {fields['dataset.name']}, not on dataset={config.dataset.name}.")
    return InputRun(name, folder, fields)
