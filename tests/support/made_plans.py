"""Plans of workers that behave as they are told."""

import os
from dataclasses import replace
from pathlib import Path

from fake_workers import behave

from sweeps.launch import Outcome, launch
from sweeps.plan import Plan, PlannedRun, planned_state
from sweeps.scales import Scale


def planned(folder: Path, name: str, behaviour: str = "done", inputs: str = "", stage: int = 0) -> PlannedRun:
    return PlannedRun(
        run_id=name,
        overrides=(f"name={name}", f"behave={behaviour}", f"planner={os.getpid()}"),
        fields={"optim.epochs": 2},
        inputs=tuple(inputs),
        stage=stage,
        state=planned_state(folder / name),
        place=f"fake: {name}",
        specs=("fake",),
    )


def plan_of(folder: Path, inputs: dict[str, str] | None = None, changed: str = "", **behaviours: str) -> Plan:
    """A plan whose runs have names of one letter; ``inputs`` has, by name, the letters of the runs that it reads."""
    folder.mkdir(exist_ok=True)
    runs: dict[str, PlannedRun] = {}
    for name, behaviour in behaviours.items():
        read = (inputs or {}).get(name, "")
        stage = max((1 + runs[other].stage for other in read), default=0)
        run = planned(folder, name, behaviour, read, stage)
        runs[name] = replace(run, changed=True, state="changed") if name in changed else run
    return Plan(folder, (), Scale(title="paper"), runs, [])


def call(plan: Plan, *, jobs: int = 2, **options: object) -> Outcome:
    return launch(plan, jobs=jobs, worker=behave, **options)  # type: ignore[arg-type]


def calls(folder: Path) -> list[list[str]]:
    """The overrides of each worker process there has been."""
    path = folder / "calls.txt"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def trained(folder: Path) -> str:
    return "".join(overrides[0].removeprefix("name=") for overrides in calls(folder))
