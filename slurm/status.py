"""What was submitted: showing how far it is, and stopping it. Nothing here composes a run or imports PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.command import print_table
from repro.errors import UserError, did_you_mean
from repro.files import read_json, write_json
from repro.runs.lock import acquire
from repro.runs.state import read_status
from slurm.states import Jobs, look_at_queue, read_queue
from sweeps.scales import PAPER

if TYPE_CHECKING:
    from sweeps.plan import Plan

#: What can be done about a run that no job brings further.
_REMEDIES = {
    "failed": "`retry` trains it again, when what has ended it is mended",
    "corrupted": "`python -m sweeps verify` names the file; `retry` trains it again",
    "lost": "its job is gone without a word, for a lack of memory perhaps; `submit` sends it again",
    "preempted": "`submit` sends it again",
    "cancelled": "`submit` sends it again",
}

#: States that need no line of their own.
_COUNTED = ("done", "missing", "queued")


def keep_plan(plan: Plan) -> None:
    """Keep what the commands here need to know of each spec of ``plan``."""
    folder = plan.folder / "slurm"
    folder.mkdir(parents=True, exist_ok=True)
    for spec in plan.specs:
        label = spec.name + ("" if plan.cells else ".tuning") + ("" if plan.scale.name == PAPER else f"@{plan.scale.name}")
        runs = (run for run in plan.runs.values() if spec.name in run.specs)
        write_json(folder / f"{label}.json", {run.run_id: {"place": run.place, "inputs": run.inputs} for run in runs})


def _submitted(runs: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the runs of the specs ``names`` that were submitted, or of all; the id of a run stands for itself.

    Raises:
        UserError: there is no such spec or run.
    """
    specs = {path.stem: read_json(path) for path in sorted((runs / "slurm").glob("*.json"))}
    single = {name: {name: run} for kept in specs.values() for name, run in kept.items()}
    for name in names:
        if name not in specs | single:
            near = did_you_mean(name, [*specs, *single])
            raise UserError(f"{name} was not submitted from {runs}.{near} Submitted were: {', '.join(specs) or 'none'}.")
    return {name: (specs | single)[name] for name in names or specs}


def print_status(runs: Path, names: Sequence[str]) -> int:
    """Print for each spec how far its runs are; return 1 when one of them needs attention."""
    jobs, states = Jobs(runs, look_at_queue()), set[str]()
    for label, kept in _submitted(runs, names).items():
        views = {name: jobs.view(name) for name in kept}
        lines = [["state", "job", "epoch", "run", ""]]
        for name, view in views.items():
            if view.state not in _COUNTED:
                status = read_status(runs / name)
                failed = [other for other in kept[name]["inputs"] if other in views and views[other].state == "failed"]
                why = f"its input {failed[0]} failed" if failed else status.get("error") or view.why
                epoch = f"{status['epoch']}/{status['epochs']}" if status else ""
                lines.append([view.state, view.job, epoch, f"{kept[name]['place']} ({name})", " ".join(str(why).split())])
        print_table(lines)
        counts = Counter(view.state for view in views.values())
        print(f"{label}: {len(views)} runs: " + ", ".join(f"{count} {state}" for state, count in counts.items()))
        if reasons := Counter(view.why for view in views.values() if view.state == "queued"):
            print("queued for: " + ", ".join(f"{count} {reason}" for reason, count in reasons.items()))
        states |= counts.keys() & _REMEDIES.keys()
    for state in sorted(states):
        print(f"{state}: {_REMEDIES[state]}; {runs / 'logs'} has what each run has printed")
    return 1 if states else 0


def cancel(runs: Path, names: Sequence[str]) -> int:
    """Cancel the live jobs of specs or runs; return 1 when some are elsewhere and were not cancelled.

    Raises:
        UserError: a name is neither a spec that was submitted nor a run; SLURM does not answer.
    """
    wanted = {name for kept in _submitted(runs, names).values() for name in kept}
    with acquire(runs / "slurm" / ".lock", timeout_s=600):
        jobs = Jobs(runs, read_queue())
        views = {name: jobs.view(name) for name in wanted}
        elsewhere = [view.why for view in views.values() if view.why and not view.job]
        ours = [name for name, view in views.items() if view.job or view.state in ("lost", "preempted")]
        jobs.cancel(ours)
    print(f"cancelled the jobs of {len(ours)} runs; what they have saved stays, and `submit` resumes from it")
    if elsewhere:
        print(f"not cancelled, {len(elsewhere)} runs of somebody else or on another cluster: {elsewhere[0]}")
    return 1 if elsewhere else 0
