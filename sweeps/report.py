"""What the commands of :mod:`sweeps` print."""

from __future__ import annotations

import math
import statistics
import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from repro.command import print_table
from repro.errors import UserError, first_of
from repro.files import number
from repro.runs.manifest import open_manifest
from repro.runs.state import ENDED_BADLY, STATES, damage
from sweeps.local.progress import Outcome
from sweeps.plan.cost import COUNTED, FINISHED, Costs, estimate
from sweeps.plan.disk import print_disk
from sweeps.plan.gpus import EXECUTIONS, GPUS, Gpu, auto
from sweeps.plan.plan import Plan, PlannedRun, totals
from sweeps.spec.chosen import Chosen
from sweeps.spec.expansion import Cell, same_runs
from sweeps.spec.load import Spec, TableSpec

#: What can be done about runs of other code.
REMEDIES = (
    "`python -m sweeps run` and `tune` leave such runs alone; with --changed-code again they train them anew and keep the old folders in "
    "aside/, with --changed-code equal they take them as they are and note it in code.json."
)


def print_plan(plan: Plan, *, gpu: Gpu | None, reached: float | None, tune: str) -> None:
    """Print what each spec needs and what all need together, the stages, what is not tuned, the GPU-hours, and the disk.

    ``gpu`` and ``reached`` as in :func:`sweeps.plan.cost.estimate`. ``tune`` is the command that tunes.
    """
    _print_scale(plan)
    for spec in plan.specs:
        cells = [cell for cell in plan.cells if cell.spec == spec.name]
        runs = _runs_of(plan, spec.name)
        left_out = sum(cell.skip is not None for cell in cells)
        others = Counter(other for run in runs for other in run.specs if other != spec.name)
        needed = _number(len(cells), "cell") + (f" ({left_out} left out)" if left_out else "") + f", {_number(len(runs), 'run')}"
        shared = f" ({', '.join(f'{count} shared with {other}' for other, count in others.items())})" if others else ""
        print(f"{spec.name}: {needed}{shared}, {_states(runs)}")
        for same in same_runs(spec, ((cell.row, cell.column, cell.run_ids) for cell in cells)):
            print(f"{spec.name}: the same runs, so that nothing is compared between them: {same}")
    counts = totals(plan)
    if len(plan.specs) > 1:
        print(f"together: {_number(counts['runs'], 'run')}, {counts['shared']} of them shared, {_states(plan.runs.values())}")
    stages = Counter(run.stage for run in plan.runs.values())
    if len(stages) > 1:
        print(", ".join(f"stage {stage + 1}: {_number(stages[stage], 'run')}" for stage in sorted(stages)))
    for run in plan.runs.values():
        if run.state in ENDED_BADLY:
            why = f": {damage(plan.folder / run.run_id)}" if run.state == "damaged" else ""
            print(f"{run.state}: {run.place} ({run.run_id}){why}")
    if plan.spared:
        print(f"not needed: {_number(len(plan.spared), 'run')} of them, read only by runs that are done")
    _print_code(plan)
    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    if plan.untuned:
        print(f"Until then their runs have the values that the spec gives under `otherwise`. To tune: {tune}")
    if plan.runs:
        _print_hours(plan, estimate(plan, gpu=gpu, reached=reached), named=gpu is not None, given=reached is not None)
        print_disk(plan)


def _print_code(plan: Plan) -> None:
    changed = [run for run in plan.runs.values() if run.changed]
    for run in changed:
        print(f"other code: {run.place} ({run.run_id}): {first_of(run.changed)}")
    if changed:
        print(f"The code of {_number(len(changed), 'run')} differs in these files from the present one. {REMEDIES}")
    unknown = sum(run.unknown_code for run in plan.runs.values())
    if unknown:
        print(f"taken as they are, since they do not say which code made them: {_number(unknown, 'run')}")


def _print_scale(plan: Plan) -> None:
    if plan.scale.stamp is not None:
        print(f"scale {plan.scale.title}: {plan.scale.stamp}")


def _runs_of(plan: Plan, spec: str) -> list[PlannedRun]:
    return [run for run in plan.runs.values() if spec in run.specs]


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _states(runs: Iterable[PlannedRun]) -> str:
    counts = Counter(run.state for run in runs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "nothing to run"


def _print_hours(plan: Plan, costs: Costs, *, named: bool, given: bool) -> None:
    estimates, runs = costs.runs, list(plan.runs.values())
    models = dict.fromkeys(str(run.fields["model.name"]) for run in runs)
    groups = [(f"model {model}", [run for run in runs if run.fields["model.name"] == model]) for model in models]
    specs = [(f"spec {spec.name}", found) for spec in plan.specs if len(plan.specs) > 1 and (found := _runs_of(plan, spec.name))]

    def print_hours(title: str, hours: dict[str, float | None], basis: dict[str, str]) -> None:
        lines = [[title, "all runs", "not done", "from"]]
        for name, group in [*groups, *specs, ("all", runs)]:
            left = [run for run in group if run.state != "done" and run.run_id not in plan.spared]
            of = Counter("" if hours[run.run_id] is None else basis[run.run_id] for run in group)
            parts = [f"{_number(of[known], 'run')} by {known}" for known in (FINISHED, COUNTED) if of[known]]
            parts += [f"{_number(of[''], 'run')} without estimate"] if of[""] else []
            lines.append(
                [name, hours_text([hours[run.run_id] for run in group]), hours_text([hours[run.run_id] for run in left]), ", ".join(parts)]
            )
        print_table(lines)

    # Where finished runs were on GPUs, their hours come first.
    for unit in ("GPU-hours", "CPU-hours") if costs.on_gpu else ("CPU-hours", "GPU-hours"):
        if unit == "GPU-hours" and costs.gpu is not None:
            hours, basis = ({name: getattr(cost, part) for name, cost in estimates.items()} for part in ("gpu_hours", "basis"))
            print_hours(unit, hours, basis)
        elif unit == "CPU-hours" and any(cost.cpu_hours is not None for cost in estimates.values()):
            print_hours(unit, {name: cost.cpu_hours for name, cost in estimates.items()}, dict.fromkeys(estimates, FINISHED))
            print("CPU-hours: hours of one core")
    reached = "as --reached says" if given else "assumed; --reached changes it"
    print_basis(costs, estimates, gpu="as --gpu says" if named else "assumed; --gpu names another", reached=reached)
    if costs.gpu is not None:
        _print_executions(costs, costs.gpu, groups)


def print_hours_of(plan: Plan, names: Collection[str], *, gpu: Gpu | None, said: str, on_cpu: bool = False) -> None:
    """Print the hours of the runs ``names``, by table and in all; a run that several tables need counts in each.

    They are GPU-hours on ``gpu``, of which ``said`` says where it comes from; CPU-hours where the runs train ``on_cpu``, or all finished
    runs were on CPUs and there is no ``gpu``.
    """
    costs = estimate(plan, gpu=gpu)
    costs = replace(costs, gpu=None) if on_cpu else costs
    unit = "CPU-hours" if costs.gpu is None else "GPU-hours"
    hours = {name: cost.cpu_hours if costs.gpu is None else cost.gpu_hours for name, cost in costs.runs.items()}
    for spec in plan.specs:
        print(f"{unit} {spec.name}: {hours_text([hours[name] for name in names if spec.name in plan.runs[name].specs])}")
    if len(plan.specs) > 1:
        print(f"{unit} together: {hours_text([hours[name] for name in names])}")
    print_basis(costs, names, gpu=said, reached="assumed")


def print_basis(costs: Costs, names: Iterable[str], *, gpu: str, reached: str) -> None:
    """Print what the hours of the runs ``names`` rest on.

    ``gpu`` and ``reached`` say where the GPU and the fraction of its roofline come from, if not from finished runs.
    """
    bases = Counter(costs.runs[name].basis for name in names)
    unknown = [name for name in names if costs.runs[name].cpu_hours is None] if costs.gpu is None else []
    if bases[FINISHED] or (costs.gpu is None and len(unknown) < bases.total()):
        print(f"{FINISHED}: the median of what such runs took for an epoch and a training image")
    for name, count in costs.others.items():
        print(f"not counted, since the peaks of {name} are not known: {_number(count, 'finished run')}")
    if costs.gpu is None:
        if unknown:
            print(f"no estimate for {_number(len(unknown), 'run')}: none of the kind is done on a CPU")
        return
    gpu = f"that of {_number(costs.on_gpu, 'finished run')}" if costs.on_gpu else gpu
    print(f"GPU: {costs.gpu.title} ({gpu}; known: {', '.join(GPUS)}), executed as exec=auto there: {auto(costs.gpu)}")
    if bases[COUNTED]:
        reached = f"as {_number(costs.measured, 'finished run')} did" if costs.measured else reached
        print(f"{COUNTED}: FLOPs, bytes and launches at {costs.reached:.2g} of the roofline ({reached})")
    executions = Counter(costs.runs[name].execution for name in names)
    for execution, count in executions.items():
        if execution not in (None, auto(costs.gpu)):
            print(f"as exec=auto chose there for runs of the kind: {_number(count, 'run')} in {execution}")
    for reason, count in bases.items():
        if reason not in (FINISHED, COUNTED):
            print(f"no estimate for {_number(count, 'run')}: {reason}")


def _print_executions(costs: Costs, gpu: Gpu, groups: Iterable[tuple[str, Sequence[PlannedRun]]]) -> None:
    works = [cost.work for cost in costs.runs.values() if cost.work is not None]
    ways = [way for way in dict.fromkeys((*EXECUTIONS, auto(gpu))) if gpu.peak(way.products) is not None]
    if works:
        lines = [[str(way), hours_text([work.hours(gpu, way) / costs.reached for work in works])] for way in ways]
        print_table([["executed in", "GPU-hours, counted"], *lines])
    for name, group in groups:
        if works := [work for run in group if (work := costs.runs[run.run_id].work) is not None]:
            largest = max(work.memory(auto(gpu)) for work in works)
            shares = dict.fromkeys(f"{of(work.busy(gpu, auto(gpu)) for work in works):.0%}" for of in (min, max))
            number, busy = min(work.runs_per_gpu(gpu, auto(gpu)) for work in works), " to ".join(shares)
            print(f"runs_per_gpu for {name}: {number} (a run needs up to {largest / 2**30:.1f} GiB and keeps the GPU {busy} busy)")


def hours_text(estimates: Collection[float | None]) -> str:
    """Return the sum of the hours that are known."""
    known = [hours for hours in estimates if hours is not None]
    if estimates and not known:
        return "no estimate"
    total = sum(known)
    if 0.0 < total < 0.01:
        return "< 0.01"
    return f"{total:,.2f}" if total < 10.0 else f"{total:,.0f}"


def print_status(plan: Plan) -> None:
    """Print each spec's rows and columns with the state of the runs of each cell."""
    _print_scale(plan)
    for spec in plan.specs:
        print(f"{spec.name}: {spec.title}")
        columns = [column.label for column in spec.columns]
        cells = {(cell.row, cell.column): cell for cell in plan.cells if cell.spec == spec.name}
        texts = {key: _cell_status(plan, spec, cell) for key, cell in cells.items()}
        print_table([["", *columns], *([row.label, *(texts[row.label, column] for column in columns)] for row in spec.rows)])
        for cell in cells.values():
            if cell.skip is not None:
                print(f"- {', '.join(filter(None, (cell.row, cell.column)))}: {cell.skip}")
        shown = {name for cell in cells.values() for name in cell.run_ids}
        inputs = [run for run in _runs_of(plan, spec.name) if run.run_id not in shown]
        if inputs:
            print(f"their inputs: {counts_text([run.state for run in inputs])}")


def _cell_status(plan: Plan, spec: Spec, cell: Cell) -> str:
    if cell.skip is not None:
        return "-"
    if not cell.run_ids:
        return str(cell.value)
    runs = [plan.runs[name] for name in cell.run_ids]
    value = _value(plan, spec, cell) if isinstance(spec, TableSpec) else ""
    return f"{counts_text([run.state for run in runs])}  {value}".rstrip()


def _value(plan: Plan, spec: TableSpec, cell: Cell) -> str:
    """Return mean ± sample standard deviation of the cell's runs that are done; nothing where the table reads a curve."""
    epoch = cell.epoch or spec.value.epoch
    done = [plan.folder / name for name in cell.run_ids if plan.runs[name].state == "done"]
    if not done or epoch.number is not None:
        return ""
    try:
        values = [number(open_manifest(folder).read_json("final.json")[spec.value.metric][epoch.rule]) for folder in done]
    except UserError:
        return "damaged"
    except KeyError:
        return f"no {spec.value.metric}"
    if not all(map(math.isfinite, values)):
        return "diverged"
    factor = 100.0 if spec.value.scale == "percent" else 1.0
    numbers = [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]
    return " ± ".join(f"{factor * one:.{spec.value.decimals}f}" for one in numbers)


def counts_text(states: Collection[str]) -> str:
    """Return how many of some runs with these ``states`` are done, and how many are in each other state but ``missing``."""
    counts = Counter(states)
    others = [f"{counts[state]} {state}" for state in in_order(counts) if state not in ("done", "missing")]
    return " ".join([f"{counts['done']}/{len(states)}", *others])


def in_order(states: Collection[str]) -> list[str]:
    """Return states in the order of a run's life, others at the end."""
    return [*(state for state in STATES if state in states), *sorted(set(states) - set(STATES))]


def print_outcome(plan: Plan, outcome: Outcome) -> None:
    """Print how many runs are done, and each run that failed, was skipped or was left alone, with the reason."""
    print(f"{len(outcome.done)} of {len(plan.runs)} runs done in {plan.folder}")
    for state, runs in (("failed", outcome.failed), ("skipped", outcome.skipped)):
        for name, reason in runs.items():
            print(f"{state}: {plan.runs[name].place} ({name}): {reason}", file=sys.stderr)
    for name, files in outcome.changed.items():
        print(f"other code, left alone: {plan.runs[name].place} ({name}): {files}", file=sys.stderr)
    if outcome.changed:
        print(REMEDIES, file=sys.stderr)
    if outcome.out_of_time:
        done, left = len(outcome.done), len(plan.runs) - len(outcome.done)
        text = f"{done} of {done + left} runs are done; the same command resumes with the {left} that are left."
        print(f"the time is over: {text}", file=sys.stderr)
    if outcome.stopped_by is not None:
        print("stopped; the same command resumes.", file=sys.stderr)


def print_chosen(chosen: Sequence[Chosen], path: Path) -> None:
    """Print the values that tuning chose, with their score, and the file that keeps them."""
    for item in chosen:
        values = {setting.override for setting in item.values}
        score = next(point.score for point in item.grid if {setting.override for setting in point.values} == values)
        where = f"{item.metric} {score:.4f} at {item.epoch}, the best of {len(item.grid)} points"
        print(f"{item.name} for {item.dataset}, {item.model}: {', '.join(sorted(values))} ({where})")
        if item.at_end:
            print(f"  {', '.join(item.at_end)}: at the end of the grid; a better value may lie beyond")
    if chosen:
        print(f"chosen values: {path}")
