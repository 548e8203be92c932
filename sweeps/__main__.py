"""``python -m sweeps plan|run|status|tune|verify``: which runs a table or figure needs, how far they are, running them here."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.command import exit_code_of, whole_number
from sweeps.scales import PAPER, Scale, known_scales, load_scale
from sweeps.selection import add_options, select
from sweeps.spec import Spec, known_specs, load_spec
from sweeps.tuned_values import tuned_folder

if TYPE_CHECKING:
    from sweeps.launch import Outcome
    from sweeps.plan import Plan

_COMMANDS = {
    "plan": "count the runs that are needed, shared, done, missing, failed, and estimate their hours; nothing is started",
    "run": "run what is missing; the same command resumes",
    "status": "show the grid of rows and columns, cell by cell",
    "tune": "run the grids of the specs' tunings, and note the values that are best on validation images",
    "verify": "read every file of the finished runs, and say which are not what the runs wrote; without SPEC, of all runs",
}

_MINUTES = "after so many minutes start nothing more, and let the running ones save their state and stop within a minute"
_SET = "how runs are executed, such as exec.device=cuda; run ids do not change"
_CHANGED = (
    "what to do about runs that a different version of the code made: leave them alone (default), train them again and keep the old "
    "folders in archive/, or accept them as they are"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    It is 0; 1 when a run failed, was skipped, or was left alone because a different version of the code made it; 2 for a user's mistake,
    or where tuning could choose nothing; 124 when the time was over before everything was done; 128 + N when stopped by signal N.
    """
    began = time.monotonic()
    args = _parser().parse_args(arguments)
    return exit_code_of(lambda: _command(args, began))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps",
        description="Which runs a table or figure needs, how far they are, and running them on this machine.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}. Scales: {', '.join(known_scales())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        several = "*" if name == "verify" else "+"
        command.add_argument("spec", nargs=several, metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
        runs = os.environ.get("REPRO_RUNS", "runs")
        command.add_argument("--runs", type=Path, default=Path(runs), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)")
        scales = "how large: a name or the path of a .yaml file (default: %(default)s)"
        command.add_argument("--scale", default=PAPER, metavar="NAME", help=scales)
        if name in ("plan", "run", "status"):
            known = "runs that stand in this evidence, such as paper_tables/evidence/small, are done although their folders are not here"
            command.add_argument("--evidence", type=Path, metavar="DIR", help=known)
        if name == "plan":
            command.add_argument("--json", action="store_true", help="print the plan as JSON")
        if name in ("run", "tune"):
            command.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="runs at a time (default: 1)")
            command.add_argument("--changed-code", choices=("refuse", "retrain", "accept"), default="refuse", help=_CHANGED)
            command.add_argument("--minutes", type=float, default=math.inf, metavar="M", help=_MINUTES)
            command.add_argument("--set", type=_execution, action="append", default=[], metavar="KEY=VALUE", help=_SET)
        if name == "run":
            command.add_argument("--retry", action="store_true", help="train failed and corrupted runs again, from their checkpoints")
            add_options(command)
        if name == "tune":
            command.add_argument("--tuned", type=Path, metavar="DIR", help="where chosen values are kept (default: $REPRO_TUNED)")
    return parser


def _execution(text: str) -> str:
    """Return a setting that changes no result: any other would train runs that no plan has."""
    if not text.startswith(("exec.", "exec=", "tracker.", "tracker=", "paths.data=")):
        raise argparse.ArgumentTypeError(f"'{text}' must be exec.NAME=VALUE, tracker.NAME=VALUE or paths.data=DIR; the rest is the spec's")
    return text


def _command(args: argparse.Namespace, began: float) -> int:
    scale = load_scale(args.scale)
    specs = [load_spec(name) for name in dict.fromkeys(args.spec)]
    # With these comes PyTorch, which `--help` and a mistake in a spec do without.
    from sweeps import printing
    from sweeps.launch import start_server
    from sweeps.plan import make_plan, plan_document, with_evidence, write_plans

    if args.command in ("run", "tune"):
        start_server()  # it imports while this process plans
    if args.command == "tune":
        return _tune(specs, scale, args, began)
    plan = make_plan(specs, scale, args.runs)
    if args.command == "verify":
        return printing.print_verified(args.runs, plan.runs if specs else None)
    if args.evidence:
        plan = with_evidence(plan, args.evidence)
    if args.command == "status":
        printing.print_status(plan)
    else:
        write_plans(plan)
        if args.command == "run":
            return _execute(select(plan, only=args.only, seeds=args.seeds), args, began, retry=args.retry).exit_code
        if args.json:
            print(json.dumps(plan_document(plan), indent=2, sort_keys=True))
        else:
            printing.print_plan(plan, f"python -m sweeps tune {shlex.join(args.spec)} --scale {shlex.quote(args.scale)}")
    return 0


def _execute(plan: Plan, args: argparse.Namespace, began: float, *, retry: bool = False) -> Outcome:
    from repro.config.compose import compose
    from sweeps.launch import launch
    from sweeps.printing import print_outcome

    if args.set and plan.runs:
        compose([*next(iter(plan.runs.values())).overrides, *args.set])  # a misspelt one is told once, not by every run
    deadline = began + 60.0 * args.minutes
    outcome = launch(plan, jobs=args.jobs, retry=retry, settings=args.set, deadline=deadline, changed_code=args.changed_code)
    print_outcome(plan, outcome)
    return outcome


def _tune(specs: Sequence[Spec], scale: Scale, args: argparse.Namespace, began: float) -> int:
    from sweeps.printing import print_chosen
    from sweeps.tuning import tune

    codes = [0]

    def execute(plan: Plan) -> Outcome:
        outcome = _execute(plan, args, began)
        codes.append(outcome.exit_code)
        return outcome

    folder = args.tuned or tuned_folder()
    print_chosen(tune(specs, scale, args.runs, folder, execute), folder / f"{scale.name}.yaml")
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
