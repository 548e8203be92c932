"""How many bytes the runs of a plan hold on the disk: those that are done as they lie there, the others by what a run writes.

A run writes the labels that it learns, an epoch at a time; its model; its metrics, in its own file and in the W&B mirror; and while it
trains two checkpoints and at times a third. ``python -m sweeps prune`` removes what nobody reads any more.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from repro.command import print_table
from repro.errors import UserError
from repro.runs.pruned import KINDS
from sweeps.plan.plan import Plan
from sweeps.plan.sizes import Fields, NoEstimateError, dataset_of, method_of, network_settings, training_images

#: Bytes of a number of an epoch in metrics.jsonl and the mirror, and of all else of a run that is small, as finished runs have them.
_A_NUMBER, _SETTINGS = 110, 40_000

#: Checkpoints that lie in a run folder at most: the newest, the one before, and the one that is being written.
_CHECKPOINTS = 3

_FLOAT, _POSITION = 4, 8


@dataclass(frozen=True)
class Held:
    """The bytes that a run holds when it is done, and at most of its checkpoints, which are gone then; the rest is small files."""

    labels: int
    model: int
    rest: int
    checkpoints: int

    @property
    def done(self) -> int:
        """When it is done."""
        return self.labels + self.model + self.rest


def held(fields: Fields) -> Held:
    """Return what a run with the identity ``fields`` holds.

    Raises:
        NoEstimateError: the sizes of its dataset are not known, or its network cannot be made.
    """
    # With it comes PyTorch.
    from sweeps.plan.counting import count_state

    images, dataset, method = training_images(fields), dataset_of(fields), method_of(fields["method.name"])
    classes, epochs = dataset.num_classes, int(fields["optim.epochs"])
    try:
        parameters, state = count_state(fields["model.name"], network_settings(fields), dataset.image_shape, classes)
    except (UserError, RuntimeError, TypeError) as error:  # TypeError: a setting of another version of the code
        raise NoEstimateError(f"the network {fields['model.name']} cannot be made: {str(error).splitlines()[0]}") from error
    remembered = 2 * parameters if fields.get("optim.algorithm") == "adam" else parameters if fields["optim.momentum"] else 0
    checkpoint = method.num_networks * (state + remembered)
    labels = 0
    if method.trajectory is not None:
        instance = method.trajectory == "instance"
        steps = math.floor if fields["optim.drop_last"] else math.ceil
        rows = images if instance else steps(images / fields["optim.batch_size"])
        learned = (images if instance else 1) * classes * _FLOAT
        checkpoint += learned * (2 if fields.get("method.momentum") else 1)
        if fields["trajectory.record"]:
            block = rows * classes * (2 if instance and fields.get("trajectory.dtype", "float16") == "float16" else _FLOAT)
            labels = epochs * block + images * _POSITION
            checkpoint += block
    numbers = 16 + classes + (0 if fields["split.name"] == "full" else 4 + classes) + (0 if fields["noise.name"] == "none" else 10)
    return Held(labels, state, (epochs + 1) * numbers * _A_NUMBER + _SETTINGS, _CHECKPOINTS * checkpoint)


def folder_size(folder: Path, *, without: tuple[str, ...] = ()) -> int:
    """Return the bytes of the files below ``folder``, but for those whose names begin with one of ``without``; 0 where there is none."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            if not name.startswith(without):
                try:
                    total += os.lstat(os.path.join(path, name)).st_size
                except FileNotFoundError:  # a checkpoint of a run that lives
                    continue
    return total


def print_disk(plan: Plan, names: Collection[str] | None = None, *, at_a_time: int = 1) -> None:
    """Print how much the runs of ``plan`` hold, and whether what is still to come fits.

    ``names`` are the runs that are about to be trained, ``at_a_time`` of them at once; by default all that are not done and needed.
    """
    there: dict[str, int] = {}
    to_come: dict[str, int] = {}
    labels: dict[str, int] = {}
    checkpoints, unknown = [0], 0
    for name, run in plan.runs.items():
        there[name] = folder_size(plan.folder / name, without=(KINDS["checkpoints"],))
        waits = run.state != "done" and name not in plan.spared if names is None else name in names
        try:
            found = held(run.fields)
        except NoEstimateError:
            unknown += waits
            continue
        labels[name] = folder_size(plan.folder / name / "labels") if run.state == "done" else found.labels if waits else 0
        if waits:
            to_come[name] = max(0, found.done - there[name])
            checkpoints.append(found.checkpoints)
    lines = [["disk", "all runs", "not done", "of all, label trajectories"]]
    groups: dict[str, list[str]] = {}
    for name, run in plan.runs.items():
        groups.setdefault(f"model {run.fields['model.name']}", []).append(name)
    for title, group in [*groups.items(), ("all", list(plan.runs))]:
        sums = [sum(part.get(name, 0) for name in group) for part in (there, to_come, labels)]
        lines.append([title, size_text(sums[0] + sums[1]), size_text(sums[1]), size_text(sums[2])])
    print_table(lines)
    free, needed = _free(plan.folder), sum(to_come.values())
    training = sum(sorted(checkpoints)[-at_a_time:])
    extra = f", and {size_text(training)} of checkpoints while {f'{at_a_time} train' if at_a_time > 1 else 'one trains'}" if needed else ""
    said = f"; without estimate: {unknown} runs" if unknown else ""
    there_now = f"{size_text(sum(there.values()))} are in {plan.folder}"
    print(f"{there_now}, {size_text(needed)} more are needed{extra}; {size_text(free)} are free{said}")
    if needed + training > free:
        print(
            f"WARNING: the disk of {plan.folder} has {size_text(free)} free and {size_text(needed + training)} are needed. Set --runs or "
            "$REPRO_RUNS to a larger one, make room, or run in parts: `python -m sweeps prune SPEC` removes what no run reads any more."
        )


def _free(folder: Path) -> int:
    folder = folder.absolute()
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.is_dir())).free


def size_text(size: float) -> str:
    """Return a number of bytes in GB, or in MB below a tenth of one."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"
