"""The command line of ``python benchmarks/rent.py``."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path

from benchmarks.rent_steps import ROOT
from sweeps.scale import PAPER

#: What can be left out.
STEPS = ("numerics", "measure")

_WHAT = "Uses a rented GPU: checks its numbers, measures, trains until the time is over, leaves evidence that can be mailed."


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    command = argparse.ArgumentParser(prog="python benchmarks/rent.py", description=_WHAT)
    add = command.add_argument
    add("--minutes", type=_minutes, required=True, metavar="M", help="how long the call may take, from its start to the packed evidence")
    add("--spec", action="append", required=True, metavar="SPEC", help="a name such as table1, or a .yaml file; again for more")
    add("--scale", default=PAPER.title, metavar="NAME", help="how large (default: %(default)s)")
    add(
        "--only",
        action="append",
        default=[],
        metavar="TEXT",
        help="only cells with TEXT in the label of their row or column; twice: with both",
    )
    add("--seeds", type=_seeds, default=(), metavar="N,...", help="only these seeds")
    add("--runs-first", action="append", default=[], metavar="RUN", help="a run id, or a part of what needs runs: these first")
    add("--retry", action="store_true", help="train those again that failed before")
    add("--jobs", type=_count, default=1, metavar="N", help="runs side by side on the GPU (default: 1)")
    add("--overrides", nargs="+", default=[], metavar="KEY=VALUE", help="how runs are executed, such as exec.allow_tf32=true; ids stay")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu rehearses (default: cuda)")
    add("--skip", type=_steps, default=(), metavar="STEP,...", help=f"leave out: {', '.join(STEPS)}")
    add("--again", action="store_true", help="repeat numerics and measurements that an earlier call has made with this machine and code")
    add("--train-anyway", action="store_true", help="train also where the golden tests fail")
    add("--runs", default=os.environ.get("REPRO_RUNS", "runs"), metavar="DIR", help="run folders (default: $REPRO_RUNS or runs)")
    add("--out", default="rent", metavar="DIR", help="log, summary, measurements, evidence (default: rent)")
    add("--scripts", default=str(ROOT / "benchmarks"), metavar="DIR", help=argparse.SUPPRESS)
    return command


def execution(chosen: argparse.Namespace) -> list[str]:
    """Return how the runs are executed: on the device, and as the command line says."""
    return [f"exec.device={chosen.device}", *chosen.overrides]


def sweep_command(chosen: argparse.Namespace, folder: Path, seconds: float, patience: float) -> list[str]:
    """Return the command that trains the chosen runs in ``folder`` for so many seconds."""
    words = [sys.executable, "-m", "sweeps", "run", *chosen.spec, "--runs", str(folder), "--scale", chosen.scale]
    words += ["--jobs", str(chosen.jobs), "--minutes", str(seconds / 60), "--patience", str(patience)]
    for option, values in (("--only", chosen.only), ("--first", chosen.runs_first), ("--set", execution(chosen))):
        words += [word for value in values for word in (option, value)]
    words += ["--seeds", ",".join(map(str, chosen.seeds))] if chosen.seeds else []
    return words + (["--retry"] if chosen.retry else [])


def _minutes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0.0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' must be a number above 0")
    return number


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"'{text}' must be a whole number from 1")
    return int(text)


def _seeds(text: str) -> tuple[int, ...]:
    if not all(part.isascii() and part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"'{text}' must be whole numbers with commas between them, such as 0,1")
    return tuple(int(part) for part in text.split(","))


def _steps(text: str) -> tuple[str, ...]:
    parts = tuple(text.split(","))
    for part in parts:
        if part not in STEPS:
            raise argparse.ArgumentTypeError(f"'{part}' is no step that can be left out; there are: {', '.join(STEPS)}")
    return parts
