"""``python -m sweeps plan|run|status|retry|tune|verify|prune``: which runs a table or figure needs, how far they are, running them here."""

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

from repro.command import exit_code_of, positive, whole_number
from repro.errors import UserError
from repro.runs.pruned import KINDS
from repro.runs.state import ENDED_BADLY, requeue
from sweeps.local.progress import Outcome
from sweeps.local.queue import run_missing
from sweeps.local.verify import print_verdicts, run_folders, verify
from sweeps.local.worker import start_server
from sweeps.plan.cost import ASSUMED_REACHED
from sweeps.plan.disk import size_text
from sweeps.plan.gpus import GPUS, USUAL, named_gpu
from sweeps.plan.plan import Plan, make_plan, plan_document, write_plans
from sweeps.plan.selection import add_options, check_execution, select
from sweeps.report import print_chosen, print_outcome, print_plan, print_status
from sweeps.spec.chosen import tuned_folder
from sweeps.spec.load import Spec, known_specs, load_spec
from sweeps.spec.scale import PAPER, Scale, known_scales, load_scale

_COMMANDS = {
    "plan": "count the runs that are needed, shared, done, missing, failed, and estimate their GPU-hours; nothing is started",
    "run": "run what is missing; the same command resumes",
    "status": "show the grid of rows and columns, cell by cell",
    "retry": "queue failed, lost and damaged runs again, for the next run to take; their checkpoints stay",
    "tune": "run the grids of the specs' tunings, and note the values that are best on validation images",
    "verify": "read every file of the runs that there are, and say which are not what the runs wrote; without SPEC, of all runs",
    "prune": "say which label trajectories, models and checkpoints of finished runs nothing reads any more, and with --yes remove them",
}

_MINUTES = "after so many minutes start nothing more, and let the running ones save their state and stop within a minute"
_SET = "how runs are executed, such as exec.device=cuda; run ids do not change"
_GPU = f"GPU that is planned for, one of {', '.join(GPUS)} (default: that of finished runs, else {USUAL.name})"
_REACHED = (
    "fraction of the roofline's speed that a run reaches where none has been measured "
    f"(default: what finished runs on that GPU have reached, else {ASSUMED_REACHED}, assumed)"
)
_CHANGED = (
    "what to do about runs that hold what other code has made: train them again and keep the old folders in aside/, or take them as equal "
    "and note it in their code.json (default: leave them alone)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    It is 0; 1 when a run failed, was skipped, or was left alone because other code made it; 2 for a user's mistake; 124 when the time was
    over before everything was done; 128 + N when stopped by signal N.
    """
    began = time.monotonic()
    chosen = _parser().parse_args(arguments)
    return exit_code_of(lambda: _command(chosen, began))


def _command(chosen: argparse.Namespace, began: float) -> int:
    scale = load_scale(chosen.scale)
    specs = [load_spec(name, scale) for name in dict.fromkeys(chosen.spec)]
    if specs:
        # Before PyTorch is imported, which comes with the methods of the runs and takes seconds.
        print(f"composing the runs of {', '.join(spec.name for spec in specs)}, reading their states in {chosen.runs}", file=sys.stderr)
    if chosen.command in ("run", "tune"):
        start_server()  # it imports while this process plans
    if chosen.command == "tune":
        return _tune(specs, scale, chosen, began)
    if chosen.command == "verify":
        names = set(make_plan(specs, Path(chosen.runs)).runs) if specs else None
        return print_verdicts(verify(folder) for folder in run_folders(Path(chosen.runs), names))
    if chosen.command == "prune":
        return _prune(specs, chosen)
    plan = make_plan(specs, Path(chosen.runs))
    if chosen.command == "status":
        print_status(plan)
        return 0
    if chosen.command == "retry":
        _retry(plan)
        return 0
    write_plans(plan)
    if chosen.command == "run":
        part = select(plan, only=chosen.only, seeds=chosen.seeds)
        return _execute(part, chosen, began, retry=chosen.retry).exit_code
    if chosen.json:
        print(json.dumps(plan_document(plan), indent=2, sort_keys=True))
    else:
        print_plan(plan, gpu=chosen.gpu, reached=chosen.reached, tune=_tune_command(chosen))
    return 0


def _execute(plan: Plan, chosen: argparse.Namespace, began: float, *, retry: bool = False) -> Outcome:
    check_execution(plan, chosen.set)
    outcome = run_missing(
        plan,
        jobs=chosen.jobs,
        retry=retry,
        settings=chosen.set,
        time_over=lambda: time.monotonic() >= began + 60.0 * chosen.minutes,
        changed_code=chosen.changed_code,
    )
    print_outcome(plan, outcome)
    return outcome


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps",
        description="Which runs a table or figure needs, how far they are, and running them on this machine.",
        epilog=f"Specs that come with the suite: {', '.join(known_specs())}. Scales: {', '.join(known_scales())}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "spec", nargs="*" if name == "verify" else "+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file"
        )
        command.add_argument("--runs", default=_default_runs(), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)")
        command.add_argument(
            "--scale", default=PAPER.title, metavar="NAME", help="how large: a name or the path of a .yaml file (default: %(default)s)"
        )
        if name == "plan":
            command.add_argument("--json", action="store_true", help="print the plan as JSON")
            command.add_argument("--gpu", type=named_gpu, metavar="NAME", help=_GPU)
            command.add_argument("--reached", type=_fraction, metavar="F", help=_REACHED)
        if name in ("run", "tune"):
            command.add_argument(
                "--jobs", type=whole_number, default=1, metavar="N", help="runs at a time, each in its own process (default: 1)"
            )
            command.add_argument("--changed-code", choices=("refuse", "again", "equal"), default="refuse", help=_CHANGED)
            command.add_argument("--minutes", type=positive, default=math.inf, metavar="M", help=_MINUTES)
            command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=_SET)
        if name == "run":
            command.add_argument("--retry", action="store_true", help="run those again that failed before")
            add_options(command)
        if name == "prune":
            command.add_argument("--yes", action="store_true", help="remove them; without it nothing is removed")
            command.add_argument("--keep", action="append", default=[], choices=KINDS, help="leave this kind of file alone")
        if name == "tune":
            command.add_argument("--again", action="store_true", help="train the grids and choose anew though scores are kept")
            command.add_argument("--tuned", metavar="DIR", help="where the chosen values are kept (default: $REPRO_TUNED or sweeps/tuned)")
    return parser


def _fraction(text: str) -> float:
    fraction = positive(text)
    if fraction > 1.0:
        raise argparse.ArgumentTypeError(f"'{text}' must be at most 1, which is the roofline itself")
    return fraction


def _tune_command(chosen: argparse.Namespace) -> str:
    words = ["python", "-m", "sweeps", "tune", *dict.fromkeys(chosen.spec)]
    for option, value, default in (("--scale", chosen.scale, PAPER.title), ("--runs", chosen.runs, _default_runs())):
        words += [option, value] if value != default else []
    return shlex.join(words)


def _default_runs() -> str:
    return os.environ.get("REPRO_RUNS", "runs")


def _retry(plan: Plan) -> None:
    ended = [run for run in plan.runs.values() if run.state in ENDED_BADLY]
    queued = [run for run in ended if requeue(plan.folder / run.run_id)]
    print(f"{len(queued)} of {len(ended)} failed, lost and damaged runs are queued again; the next `python -m sweeps run` takes them.")
    for run in ended:
        if run not in queued:
            print(f"left alone, since a process holds it: {run.place} ({run.run_id})")


def _prune(specs: Sequence[Spec], chosen: argparse.Namespace) -> int:
    from sweeps.local.prune import find, print_found, remove_found

    runs = Path(chosen.runs)
    found = find(specs, runs, chosen.keep)
    print_found(found)
    if chosen.yes:
        print(f"{size_text(remove_found(found, runs, print))} were freed")
    elif found.files:
        print("nothing was removed; --yes removes it")
    return 0


def _tune(specs: Sequence[Spec], scale: Scale, chosen: argparse.Namespace, began: float) -> int:
    # With it comes PyTorch, which `--help` and a mistake in a spec do without.
    from sweeps.local.tuning import tune

    outcomes: list[Outcome] = []

    def execute(plan: Plan) -> Outcome:
        outcomes.append(_execute(plan, chosen, began))
        return outcomes[-1]

    folder = tuned_folder() if chosen.tuned is None else Path(chosen.tuned)
    try:
        found = tune(specs, scale, Path(chosen.runs), folder, execute, again=chosen.again)
        print_chosen(found, folder / f"{scale.title}.yaml")
        if not outcomes and not found:
            print("there is nothing to tune")
    except UserError as error:
        # Nothing could be chosen because runs failed or were made by other code: that is no mistake of the user's.
        if not any(outcome.exit_code for outcome in outcomes):
            raise
        print(f"error: {error}", file=sys.stderr)
    return max((outcome.exit_code for outcome in outcomes), default=0)


if __name__ == "__main__":
    sys.exit(main())
