"""How runs are cut into job arrays: one array for each spec, method and model, because those need the same time and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sweeps.plan.plan import PlannedRun


@dataclass(frozen=True)
class Batch:
    """What one call of sbatch submits: a job, or an array of jobs with the same limits and the same dependencies.

    Attributes:
        name: what squeue shows, such as ``table1-class_labels-vgg16``.
        model: decides on time and memory.
        tasks: for each job the ids of its runs, which share a GPU.
        after: ids of the runs that must be done before any of the jobs begins.
    """

    name: str
    model: str
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[str, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """The ids of all its runs."""
        return tuple(run for task in self.tasks for run in task)

    @property
    def width(self) -> int:
        """How many runs its largest job has."""
        return max(map(len, self.tasks))

    def cut(self, size: int) -> list[Batch]:
        """Return what is left behind its first ``size`` jobs, and these."""
        return [replace(self, tasks=self.tasks[size:]), replace(self, tasks=self.tasks[:size])]


def make_batches(
    runs: Sequence[PlannedRun],
    waited_for: Mapping[str, Sequence[str]],
    readers: Mapping[str, Collection[str]],
    *,
    runs_per_gpu: int,
    array_limit: int,
) -> list[Batch]:
    """Cut ``runs`` into batches, inputs before their readers.

    A run with inputs waits for exactly those of ``waited_for``. Runs share a GPU only where the same ``readers`` wait for them: a job
    with a failed run fails, and no reader of the other runs in it may be lost for that.
    """
    classes: defaultdict[tuple[int, str, str, str, tuple[str, ...]], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        kind = (run.stage, run.specs[0], str(run.fields["method.name"]), str(run.fields["model.name"]))
        classes[*kind, tuple(waited_for.get(run.run_id, ()))].append(run)
    batches = []
    for (_, spec, method, model, after), members in sorted(classes.items(), key=lambda item: item[0][0]):
        tasks = _pack(members, readers, runs_per_gpu)
        batches += [
            Batch(f"{spec}-{method}-{model}", model, tuple(tasks[start : start + array_limit]), after)
            for start in range(0, len(tasks), array_limit)
        ]
    return batches


def _pack(runs: Sequence[PlannedRun], readers: Mapping[str, Collection[str]], size: int) -> list[tuple[str, ...]]:
    alike: defaultdict[frozenset[str], list[str]] = defaultdict(list)
    for run in runs:
        alike[frozenset(readers.get(run.run_id, ()))].append(run.run_id)
    return [tuple(ids[start : start + size]) for ids in alike.values() for start in range(0, len(ids), size)]
