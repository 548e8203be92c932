"""What the commands of :mod:`sweeps` print."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from repro.errors import first_of
from repro.rundir import ENDED_BADLY, damage
from sweeps.cost import ASSUMED_TFLOPS, COUNTED, FINISHED, Estimate, estimate
from sweeps.local import Outcome
from sweeps.plan import STATES, Plan, PlannedCell, PlannedRun, totals
from sweeps.tuned import Chosen

#: What can be done about runs of other code.
REMEDIES = (
    "`python -m sweeps run` and `tune` leave such runs alone; with --changed-code again they train them anew and keep the old folders in "
    "aside/, with --changed-code equal they take them as they are and note it in code.json."
)


def print_plan(plan: Plan, *, tflops: float | None, tune: str) -> None:
    """Print what each spec needs and what all need together, the stages, what is not tuned, and the GPU-hours.

    Without ``tflops`` the rate of counted runs is assumed, and is said to be. ``tune`` is the command that tunes.
    """
    _print_scale(plan)
    for spec in plan.specs:
        cells = [cell for cell in plan.cells if cell.spec == spec.name]
        runs = _runs_of(plan, spec.name)
        print(f"{spec.name}: {_cells(cells)}, {_number(len(runs), 'run')}{_shared(runs, spec.name)}, {_states(runs)}")
        for methods, count in Counter(cell.not_built for cell in cells if cell.not_built is not None).items():
            print(f"- {_number(count, 'cell')} not built: {methods}")
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
        _print_hours(plan, tflops)


def _print_code(plan: Plan) -> None:
    """Print which runs hold what other code has made, and how many do not say."""
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


def _cells(cells: Sequence[PlannedCell]) -> str:
    counts = {"left out": sum(cell.skip is not None for cell in cells), "not built": sum(cell.not_built is not None for cell in cells)}
    parts = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return _number(len(cells), "cell") + (f" ({parts})" if parts else "")


def _number(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _shared(runs: Iterable[PlannedRun], spec: str) -> str:
    """Say how many runs other specs need too, and which specs those are."""
    others = Counter(other for run in runs for other in run.specs if other != spec)
    return f" ({', '.join(f'{count} shared with {other}' for other, count in others.items())})" if others else ""


def _states(runs: Iterable[PlannedRun]) -> str:
    counts = Counter(run.state for run in runs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "nothing to run"


# -- GPU-hours -----------------------------------------------------------------------------------------------------------------


def _print_hours(plan: Plan, tflops: float | None) -> None:
    costs = estimate(plan, tflops=tflops or ASSUMED_TFLOPS)
    runs = list(plan.runs.values())
    lines = [["GPU-hours", "all runs", "not done", "from"]]
    models = dict.fromkeys(str(run.fields["model.name"]) for run in runs)
    groups = [(f"model {model}", [run for run in runs if run.fields["model.name"] == model]) for model in models]
    groups += [(f"spec {spec.name}", found) for spec in plan.specs if len(plan.specs) > 1 and (found := _runs_of(plan, spec.name))]
    for name, group in [*groups, ("all", runs)]:
        left = [run for run in group if run.state != "done" and run.run_id not in plan.spared]
        lines.append([name, _hours(group, costs), _hours(left, costs), _bases(group, costs)])
    _print_grid(lines)
    if any(estimated.cpu_hours is not None for estimated in costs.values()):
        lines = [["CPU-hours", "all runs", "not done", "from"]]
        for name, group in [*groups, ("all", runs)]:
            left = [run for run in group if run.state != "done" and run.run_id not in plan.spared]
            known = sum(costs[run.run_id].cpu_hours is not None for run in group)
            without = f", {_number(len(group) - known, 'run')} without estimate" if known < len(group) else ""
            lines.append([name, _cpu_hours(group, costs), _cpu_hours(left, costs), f"{_number(known, 'run')} by {FINISHED}{without}"])
        _print_grid(lines)
        print("CPU-hours: hours of one core")
    bases = Counter(costs[run.run_id].basis for run in runs)
    if bases[FINISHED]:
        print(f"{FINISHED}: the median of what such runs took for an epoch and a training image")
    if bases[COUNTED]:
        said = "assumed; --tflops changes it" if tflops is None else "as --tflops says"
        print(f"{COUNTED}: multiply-accumulates times 2, at {tflops or ASSUMED_TFLOPS:g} TFLOP/s ({said})")
    for reason, count in bases.items():
        if reason not in (FINISHED, COUNTED):
            print(f"no estimate for {_number(count, 'run')}: {reason}")


def _hours(runs: Collection[PlannedRun], costs: dict[str, Estimate]) -> str:
    return _sum([costs[run.run_id].gpu_hours for run in runs])


def _cpu_hours(runs: Collection[PlannedRun], costs: dict[str, Estimate]) -> str:
    return _sum([costs[run.run_id].cpu_hours for run in runs])


def _sum(estimates: Collection[float | None]) -> str:
    known = [hours for hours in estimates if hours is not None]
    if estimates and not known:
        return "no estimate"
    total = sum(known)
    if 0.0 < total < 0.01:
        return "< 0.01"
    return f"{total:,.2f}" if total < 10.0 else f"{total:,.0f}"


def _bases(runs: Iterable[PlannedRun], costs: dict[str, Estimate]) -> str:
    counts = Counter(costs[run.run_id].basis for run in runs)
    parts = [f"{_number(counts[basis], 'run')} by {basis}" for basis in (FINISHED, COUNTED) if counts[basis]]
    without = counts.total() - counts[FINISHED] - counts[COUNTED]
    return ", ".join([*parts, *([f"{_number(without, 'run')} without estimate"] if without else [])])


# -- the grid ------------------------------------------------------------------------------------------------------------------


def print_status(plan: Plan) -> None:
    """Print each spec's rows and columns with the state of the runs of each cell."""
    _print_scale(plan)
    for spec in plan.specs:
        print(f"{spec.name}: {spec.title}")
        columns = [column.label for column in spec.columns]
        cells = {(cell.row, cell.column): cell for cell in plan.cells if cell.spec == spec.name}
        texts = {key: _cell_status(plan, cell) for key, cell in cells.items()}
        _print_grid([["", *columns], *([row.label, *(texts[row.label, column] for column in columns)] for row in spec.rows)])
        for cell in cells.values():
            why = cell.skip if cell.not_built is None else f"not built: {cell.not_built}"
            if why is not None:
                print(f"- {', '.join(filter(None, (cell.row, cell.column)))}: {why}")
        shown = {name for cell in cells.values() for name in cell.run_ids}
        inputs = [run for run in _runs_of(plan, spec.name) if run.run_id not in shown]
        if inputs:
            print(f"their inputs: {_counts(inputs)}")


def _cell_status(plan: Plan, cell: PlannedCell) -> str:
    if cell.skip is not None:
        return "-"
    if cell.not_built is not None:
        return "not built"
    if not cell.run_ids:
        return str(cell.value)
    return _counts([plan.runs[name] for name in cell.run_ids])


def _counts(runs: Collection[PlannedRun]) -> str:
    counts = Counter(run.state for run in runs)
    others = [f"{counts[state]} {state}" for state in STATES if counts[state] and state not in ("done", "missing")]
    return " ".join([f"{counts['done']}/{len(runs)}", *others])


def _print_grid(lines: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


# -- how a call ended ----------------------------------------------------------------------------------------------------------


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
        done, count = len(outcome.done), len(plan.runs)
        print(
            f"the time is over: {done} of {count} runs are done; the same command goes on with the {count - done} that are left.",
            file=sys.stderr,
        )
    if outcome.stopped_by is not None:
        print("stopped; the same command goes on.", file=sys.stderr)


def print_chosen(chosen: Sequence[Chosen], path: Path) -> None:
    """Print the values that tuning chose, with their score, and the file that keeps them."""
    for item in chosen:
        values = {setting.override for setting in item.values}
        score = next(point.score for point in item.grid if {setting.override for setting in point.values} == values)
        where = f"{item.metric} {score:.4f} at {item.epoch}, the best of {len(item.grid)} points"
        print(f"{item.name} for {item.dataset}, {item.model}: {', '.join(sorted(values))} ({where})")
    if chosen:
        print(f"chosen values: {path}")
