"""``python -m sweeps plan|run|status SPEC...``: which runs a table or figure needs, how far they are, and running them here."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Container, Sequence
from pathlib import Path

from repro.errors import EXIT_USER_ERROR, UserError
from sweeps.local import Outcome, run_missing
from sweeps.plan import STATES, Plan, make_plan, plan_document, totals, write_plans
from sweeps.spec import known_specs, load_spec


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0; 1 when a run failed; 2 for a user's mistake; 128 + N when stopped by signal N."""
    chosen = _parser().parse_args(arguments)
    try:
        specs = [load_spec(name) for name in dict.fromkeys(chosen.spec)]
        plan = make_plan(specs, Path(chosen.runs))
        if chosen.command == "status":
            _print_status(plan)
            return 0
        write_plans(plan)
        if chosen.command == "plan":
            _print_plan(plan, as_json=chosen.json)
            return 0
        outcome = run_missing(plan, jobs=chosen.jobs, retry=chosen.retry)
        _print_outcome(plan, outcome)
        return outcome.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps",
        description="Which runs a table or figure needs, how far they are, and running them on this machine.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("plan", "count the runs that are needed, shared, done, missing, failed; nothing is started"),
        ("run", "run what is missing; calling it again goes on"),
        ("status", "show the grid of rows and columns, cell by cell"),
    ):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("spec", nargs="+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
        command.add_argument(
            "--runs", default=os.environ.get("REPRO_RUNS", "runs"), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)"
        )
        if name == "plan":
            command.add_argument("--json", action="store_true", help="print the plan as JSON")
        if name == "run":
            command.add_argument(
                "--jobs", type=_positive, default=1, metavar="N", help="runs at a time, each in its own process (default: 1)"
            )
            command.add_argument("--retry", action="store_true", help="run those again that failed before")
    return parser


def _positive(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from 1")
    return number


def _print_plan(plan: Plan, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(plan_document(plan), indent=2, sort_keys=True))
        return
    for spec in plan.specs:
        cells = [cell for cell in plan.cells if cell.spec == spec.name]
        runs = {name for cell in cells for name in cell.run_ids}
        skipped = sum(cell.skip is not None for cell in cells)
        left_out = f" ({skipped} left out)" if skipped else ""
        print(f"{spec.name}: {len(cells)} cells{left_out}, {len(runs)} runs, {_states(plan, runs)}")
    counts = totals(plan)
    if len(plan.specs) > 1:
        print(f"together: {counts['runs']} runs, {counts['shared']} of them shared, {_states(plan, plan.runs)}")
    for run in plan.runs.values():
        if run.state in ("failed", "lost"):
            print(f"{run.state}: {run.place} ({run.run_id})")


def _states(plan: Plan, names: Container[str]) -> str:
    counts = Counter(run.state for name, run in plan.runs.items() if name in names)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "nothing to run"


def _print_status(plan: Plan) -> None:
    for spec in plan.specs:
        print(f"{spec.name}: {spec.title}")
        columns = [column.label for column in spec.columns]
        texts = {(cell.row, cell.column): _cell_status(plan, cell.run_ids, cell.skip) for cell in plan.cells if cell.spec == spec.name}
        grid = [["", *columns], *([row.label, *(texts[row.label, column] for column in columns)] for row in spec.rows)]
        widths = [max(len(line[index]) for line in grid) for index in range(len(columns) + 1)]
        for line in grid:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        for cell in plan.cells:
            if cell.spec == spec.name and cell.skip is not None:
                print(f"- {', '.join(filter(None, (cell.row, cell.column)))}: {cell.skip}")


def _cell_status(plan: Plan, names: Sequence[str], skip: str | None) -> str:
    if skip is not None:
        return "-"
    counts = Counter(plan.runs[name].state for name in names)
    others = [f"{counts[state]} {state}" for state in STATES if counts[state] and state not in ("done", "missing")]
    return " ".join([f"{counts['done']}/{len(names)}", *others])


def _print_outcome(plan: Plan, outcome: Outcome) -> None:
    print(f"{len(outcome.done)} of {len(plan.runs)} runs done in {plan.folder}")
    for name, error in outcome.failed.items():
        print(f"failed: {plan.runs[name].place} ({name}): {error}", file=sys.stderr)
    if outcome.stopped_by is not None:
        print("stopped; the same command goes on.", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
