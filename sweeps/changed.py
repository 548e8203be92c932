"""Runs of a plan that hold what other code has made than the present one (:mod:`repro.recorded`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.recorded import differences, has_results, run_code, settle

if TYPE_CHECKING:
    from sweeps.graph import Node
    from sweeps.plan import PlannedRun


@dataclass(frozen=True)
class Made:
    """What a run folder says of the code that made it.

    Attributes:
        changed: the files and inputs in which it differs from the present code.
        unknown: it has results and does not say.
    """

    changed: tuple[str, ...] = ()
    unknown: bool = False


def made_by(nodes: Iterable[Node], folder: Path) -> dict[str, Made]:
    """Return for each run of a graph, inputs before their readers, which code made what its folder holds.

    Raises:
        UserError: as :func:`repro.code.code_of`.
    """
    found: dict[str, Made] = {}
    for node in nodes:
        found[node.run_id] = _made(node.run_id, node.fields, node.inputs, folder, found)
    return found


def _made(name: str, fields: Mapping[str, Any], inputs: Iterable[str], folder: Path, found: Mapping[str, Made]) -> Made:
    if not has_results(folder / name):
        return Made()
    names = differences(folder / name, run_code(fields, folder, inputs=inputs))
    # Whatever is done about an input is to be done about what has read it.
    read = [text for other in inputs if found[other].changed and (text := f"input {other}") not in (names or ())]
    return Made((*(names or ()), *read), unknown=names is None)


def resolve(run: PlannedRun, folder: Path, remedy: str) -> None:
    """Do what ``remedy`` (``again``, ``equal``) says about the run, unless somebody else has done it since the plan was made.

    Raises:
        UserError: another process is training the run; its folder cannot be written.
    """
    settle(folder / run.run_id, run_code(run.fields, folder, inputs=run.inputs), remedy)
