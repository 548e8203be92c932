"""Plans of workers that behave as they are told, and planners that run them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from fake_workers import behave
from sweeps.local.progress import Outcome
from sweeps.local.queue import run_missing
from sweeps.plan.plan import Plan, PlannedRun, planned_state

from repro.files import read_json

#: What the server of the workers imports; PyTorch is not among it.
FAST = ("fake_workers",)

#: Two folds, a student of both, a student of that, and a run that reads nothing.
GRAPH = {"c": "ab", "d": "c"}


def planned(folder: Path, name: str, behaviour: str = "done", inputs: str = "", stage: int = 0) -> PlannedRun:
    return PlannedRun(
        run_id=name,
        overrides=(f"name={name}", f"behave={behaviour}", f"inputs.labels=[{','.join(inputs)}]"),
        fields={"optim.epochs": 2},
        state=planned_state(folder / name),
        inputs=tuple(inputs),
        specs=("fake",),
        place=f"fake: {name}",
        stage=stage,
    )


def plan_of(folder: Path, inputs: dict[str, str] | None = None, **behaviours: str) -> Plan:
    """A plan whose runs have names of one letter; ``inputs`` has, by name, the letters of the runs that it reads."""
    folder.mkdir(exist_ok=True)
    inputs = inputs or {}
    stages: dict[str, int] = {}
    for name in behaviours:
        stages[name] = max((1 + stages[other] for other in inputs.get(name, "")), default=0)
    runs = {name: planned(folder, name, behaviour, inputs.get(name, ""), stages[name]) for name, behaviour in behaviours.items()}
    return Plan(folder=folder, specs=(), runs=runs)


def call(plan: Plan, *, jobs: int = 2, retry: bool = False, time_over: Callable[[], bool] = lambda: False) -> Outcome:
    return run_missing(plan, jobs=jobs, retry=retry, time_over=time_over, worker=behave, preload=FAST)


def calls(folder: Path) -> list[list[str]]:
    """The worker processes there have been: name, threads, process id, process group."""
    path = folder / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def state(folder: Path, name: str) -> str:
    return str(read_json(folder / name / "status.json")["state"])


def state_or_none(folder: Path, name: str) -> str | None:
    try:
        return state(folder, name)
    except FileNotFoundError:
        return None


def driver(
    folder: Path, behaviour: str, names: str, jobs: int = 2, inputs: dict[str, str] | None = None, terminal: int | None = None
) -> subprocess.Popen[str]:
    """Another planner, as a process of its own in a process group of its own, as a shell would start it."""
    code = (
        "import sys; from pathlib import Path; from made_plans import call, plan_of\n"
        "if __name__ == '__main__':\n"
        f"    outcome = call(plan_of(Path({str(folder)!r}), {inputs}, **dict.fromkeys({names!r}, {behaviour!r})), jobs={jobs})\n"
        "    print(sorted(outcome.done), outcome.failed)\n"
        "    sys.exit(outcome.exit_code)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if terminal is None else terminal,
        text=True,
        start_new_session=True,
    )


def wait_until(condition: Callable[[], bool], timeout_s: float = 300.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
