"""How runs are cut into job arrays: each for one spec, method and model, because those need the same time and memory.

A run with inputs waits for exactly those of them that are not done. Finals of one grid are one array nevertheless (``aftercorr``): job i
of it waits for job i of each array of its inputs, which are laid out so that all that one final reads has one index.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sweeps.plan.plan import PlannedRun


@dataclass(frozen=True)
class Batch:
    """What one call of sbatch submits: a job, or an array of jobs with the same limits.

    Attributes:
        name: what squeue shows, such as ``table1-class_labels-vgg16``.
        model: decides on time and memory.
        tasks: for each job the ids of its runs, which share a GPU or take turns.
        after: for each job the ids of the runs that must be done before it begins.
    """

    name: str
    model: str
    tasks: tuple[tuple[str, ...], ...]
    after: tuple[tuple[str, ...], ...]

    @property
    def runs(self) -> list[str]:
        """The ids of all its runs."""
        return [run for task in self.tasks for run in task]

    @property
    def width(self) -> int:
        """How many runs its largest job has."""
        return max(map(len, self.tasks))

    def hours(self, of: Mapping[str, float]) -> float | None:
        """Return the hours of its longest job, by those ``of`` each run; ``None`` where these of a run are not known."""
        known = all(name in of for name in self.runs)
        return max(sum(of[name] for name in task) for task in self.tasks) if known else None

    def of(self, indices: Sequence[int]) -> Batch:
        """Return its jobs of these indices, in their order."""
        return Batch(self.name, self.model, tuple(self.tasks[i] for i in indices), tuple(self.after[i] for i in indices))

    def cut(self, size: int) -> list[Batch]:
        """Return what is left behind its first ``size`` jobs, and these."""
        return [self.of(range(size, len(self.tasks))), self.of(range(size))]

    def dependency(self, jobs: Mapping[str, str]) -> str | None:
        """Return what sbatch is told of a batch that :func:`split` has made; ``jobs`` has the job of each run."""
        waits = [_jobs_of(after, jobs) for after in self.after]
        if len(set(waits)) == 1:
            return f"afterok:{':'.join(waits[0])}" if waits[0] else None
        return f"aftercorr:{':'.join(job.partition('_')[0] for job in waits[0])}"


def split(batch: Batch, jobs: Mapping[str, str]) -> list[Batch]:
    """Cut ``batch`` so that each part can be submitted by one call: its jobs all wait for the same, or job i for jobs i of some arrays.

    ``jobs`` has the job of each run that is waited for, as squeue shows it: ``12``, or ``12_3`` for a task of an array.
    """
    alike: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
    grids: defaultdict[tuple[str, ...], dict[int, int]] = defaultdict(dict)
    for position, after in enumerate(batch.after):
        waits = _jobs_of(after, jobs)
        alike[waits].append(position)
        index = {job.partition("_")[2] for job in waits}
        if len(index) == 1 and "" not in index:
            grids[tuple(job.partition("_")[0] for job in waits)][int(index.pop())] = position
    whole = [[grid[index] for index in sorted(grid)] for grid in grids.values() if max(grid) == len(grid) - 1 > 0]
    taken = {position for positions in whole for position in positions}
    rest = [[position for position in positions if position not in taken] for positions in alike.values()]
    return [batch.of(positions) for positions in (*rest, *whole) if positions]


def _jobs_of(names: Collection[str], jobs: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(sorted({jobs[name] for name in names}))


def make_batches(
    runs: Sequence[PlannedRun],
    waited_for: Mapping[str, Sequence[str]],
    readers: Mapping[str, Collection[str]],
    live: Mapping[str, str],
    *,
    size: Mapping[str, int],
    array_limit: int,
) -> list[Batch]:
    """Cut ``runs`` into batches, inputs before their readers; ``live`` has the jobs of runs that are in the queue.

    A run waits for exactly those of ``waited_for``. A job has up to ``size`` runs of a model, and only such as the same ``readers`` wait
    for: a job with a failed run fails, and no reader of the other runs in it may be lost for that.
    """
    classes: defaultdict[tuple[int, str, str, str], list[PlannedRun]] = defaultdict(list)
    for run in runs:
        classes[run.stage, run.specs[0], str(run.fields["method.name"]), str(run.fields["model.name"])].append(run)
    batches: list[Batch] = []
    jobs = dict(live)
    for (_, spec, method, model), members in sorted(classes.items(), key=lambda item: item[0][0]):
        for tasks in _lay_out(members, waited_for, readers, size[model]):
            after = tuple(tuple(waited_for.get(task[0], ())) for task in tasks)
            for part in split(Batch(f"{spec}-{method}-{model}", model, tuple(tasks), after), jobs):
                for start in range(0, len(part.tasks), array_limit):
                    batch = part.of(range(len(part.tasks))[start : start + array_limit])
                    # What SLURM will call it is not known yet.
                    single = len(batch.tasks) == 1
                    jobs |= {name: f"new{len(batches)}" + f"_{i}" * (not single) for i, task in enumerate(batch.tasks) for name in task}
                    batches.append(batch)
    return batches


def _lay_out(
    runs: Sequence[PlannedRun], waited_for: Mapping[str, Sequence[str]], readers: Mapping[str, Collection[str]], size: int
) -> list[list[tuple[str, ...]]]:
    """Return the jobs of ``runs`` as columns, each of which becomes an array if its jobs may wait for the same.

    What the same readers wait for has one index. Where that would make more arrays than there are readers, one column holds all.
    """
    alike: defaultdict[tuple[frozenset[str], tuple[str, ...]], list[str]] = defaultdict(list)
    for run in runs:
        alike[frozenset(readers.get(run.run_id, ())), tuple(waited_for.get(run.run_id, ()))].append(run.run_id)
    columns: defaultdict[tuple[int, int], list[tuple[str, ...]]] = defaultdict(list)
    packs = {key: [tuple(ids[start : start + size]) for start in range(0, len(ids), size)] for key, ids in alike.items()}
    many = Counter(len(tasks) for (read, _), tasks in packs.items() if read)
    # Those with most readers first: then each of the readers finds what it waits for at the beginning of the arrays.
    for (read, _), tasks in sorted(packs.items(), key=lambda item: -len(item[0][0])):
        flat = not read or len(tasks) >= many[len(tasks)]
        for number, task in enumerate(tasks):
            columns[(0, 0) if flat else (len(tasks), number)].append(task)
    return list(columns.values())
