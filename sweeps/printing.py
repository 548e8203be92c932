"""What the commands of :mod:`sweeps` print."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from repro.command import print_table
from repro.runs.manifest import FILE, verify
from repro.runs.state import ENDED_BADLY, STATES, corruption
from sweeps.cost import estimate
from sweeps.expand import Cell
from sweeps.launch import Outcome
from sweeps.plan import Plan, PlannedRun
from sweeps.scales import Scale
from sweeps.tuned_values import Chosen

#: What can be done about runs that a different version of the code made.
REMEDIES = (
    "`python -m sweeps run` and `tune` leave them alone; with --changed-code retrain they train them again and keep the old folders in "
    "archive/, with --changed-code accept they take them as they are."
)


def print_plan(plan: Plan, tune: str) -> None:
    """Print what each spec needs and what all need together, the stages, what is not tuned, and the hours; ``tune`` is what tunes."""
    print_disclaimer(plan.scale)
    for spec in plan.specs:
        cells = [cell for cell in plan.cells if cell.spec == spec.name]
        runs = [run for run in plan.runs.values() if spec.name in run.specs]
        shared = sum(len(run.specs) > 1 for run in runs)
        needed = f"{len(cells)} cells, {len(runs)} runs ({shared} shared with other specs)"
        print(f"{spec.name}: {needed}, {_states(runs)}")
    if len(plan.specs) > 1:
        print(f"together: {len(plan.runs)} runs, {_states(plan.runs.values())}")
    for run in plan.runs.values():
        if run.state in ENDED_BADLY:
            print(f"{run.state}: {run.place} ({run.run_id}) {corruption(plan.folder / run.run_id) or ''}")
    if plan.spared:
        print(f"not needed: {len(plan.spared)} runs of them, read only by runs that are done")
    if changed := sum(run.changed for run in plan.runs.values()):
        print(f"made by a different version of the code: {changed} runs. {REMEDIES}")
    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    if plan.untuned:
        print(f"Until then their runs have the values that the spec gives under `otherwise`. To tune: {tune}")
    if plan.runs:
        print_hours(plan, list(plan.runs))


def print_disclaimer(scale: Scale) -> None:
    """Print what a scale other than the paper's says of itself."""
    if scale.disclaimer:
        print(f"scale {scale.name}: {scale.disclaimer}")


def print_hours(plan: Plan, names: Collection[str]) -> None:
    """Print the hours of the runs ``names`` by spec and in all, and of those that are left; a run of several specs counts in each."""
    costs = estimate(plan)
    left = {name for name in names if plan.runs[name].state != "done" and name not in plan.spared}
    lines = [[costs.unit, "all runs", "not done"]]
    for spec in plan.specs:
        own = [name for name in names if spec.name in plan.runs[name].specs]
        lines.append([spec.name, costs.total(own), costs.total([name for name in own if name in left])])
    if len(plan.specs) > 1:
        lines.append(["together", costs.total(names), costs.total(left)])
    print_table(lines)
    print(f"of {len(plan.runs)} runs: {costs.basis}")


def _states(runs: Iterable[PlannedRun]) -> str:
    counts = Counter(run.state for run in runs)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "nothing to run"


def print_status(plan: Plan) -> None:
    """Print each spec's rows and columns with the state of the runs of each cell."""
    print_disclaimer(plan.scale)
    for spec in plan.specs:
        print(f"{spec.name}: {spec.title}")
        cells = {(cell.row, cell.column): cell for cell in plan.cells if cell.spec == spec.name}
        columns = [column.label for column in spec.column_lines]
        lines = [[row.label, *(_cell_status(plan, cells[row.label, column]) for column in columns)] for row in spec.row_lines]
        print_table([["", *columns], *lines])
        for cell in cells.values():
            if cell.skip is not None:
                print(f"- {', '.join(filter(None, (cell.row, cell.column)))}: {cell.skip}")
        shown = {name for cell in cells.values() for name in cell.run_ids}
        inputs = [run.state for run in plan.runs.values() if spec.name in run.specs and run.run_id not in shown]
        if inputs:
            print(f"their inputs: {counts_text(inputs)}")


def counts_text(states: Collection[str]) -> str:
    """Return how many of some runs with these ``states`` are done, and how many are in each other state but ``missing``."""
    counts = Counter(states)
    others = [f"{counts[state]} {state}" for state in STATES if counts[state] and state not in ("done", "missing")]
    return " ".join([f"{counts['done']}/{len(states)}", *others])


def _cell_status(plan: Plan, cell: Cell) -> str:
    if cell.skip is not None:
        return "-"
    return counts_text([plan.runs[name].state for name in cell.run_ids]) if cell.run_ids else str(cell.value)


def print_outcome(plan: Plan, outcome: Outcome) -> None:
    """Print how many runs are done, and each run that failed, was skipped or was left alone, with the reason."""
    print(f"{len(outcome.done)} of {len(plan.runs)} runs done in {plan.folder}")
    for how, reasons in (("failed", outcome.failed), ("skipped", outcome.skipped), ("changed", outcome.changed)):
        for name, reason in reasons.items():
            print(f"{how}: {plan.runs[name].place} ({name}): {reason}", file=sys.stderr)
    if outcome.changed:
        print(REMEDIES, file=sys.stderr)
    if outcome.out_of_time or outcome.stopped_by is not None:
        why = "the time is over" if outcome.out_of_time else "stopped"
        print(f"{why}; the same command resumes with the {len(plan.runs) - len(outcome.done)} runs that are left.", file=sys.stderr)


def print_chosen(chosen: Sequence[Chosen], path: Path) -> None:
    """Print the values that tuning chose, with their score, and the file that keeps them."""
    for item in chosen:
        score = next(point.score for point in item.grid if point.values == item.chosen)
        values = ", ".join(f"{key}={value}" for key, value in item.chosen.items())
        best = f"{item.metric} {score:.4f} at {item.epoch}, the best of {len(item.grid)} points"
        print(f"{item.name} for {item.dataset}, {item.model}: {values} ({best})")
        if item.at_end:
            print(f"  {', '.join(item.at_end)}: at the end of the grid; a better value may lie beyond")
    print(f"chosen values: {path}" if chosen else "there is nothing to tune")


def print_verified(runs: Path, names: Collection[str] | None = None) -> int:
    """Read every file of the finished runs in ``runs``, or of those called ``names``, and print which are not as written.

    The exit code is 1 if there are any.
    """
    folders = sorted(path.parent for path in runs.glob(f"*/{FILE}") if names is None or path.parent.name in names)
    corrupted = 0
    for folder in folders:
        problems = verify(folder)
        corrupted += bool(problems)
        for problem in problems:
            print(f"{folder.name}: {problem}")
    print(f"{len(folders)} finished runs in {runs}, {corrupted} of them corrupted")
    if corrupted:
        print("Put their files back from a copy, or train them again: `python -m sweeps run SPEC --retry`.")
    return 1 if corrupted else 0
