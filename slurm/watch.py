"""Watching what was submitted: the grid, single runs, logs, and stopping. Nothing here composes a run or imports PyTorch."""

from __future__ import annotations

import datetime as dt
import os
import sys
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from repro.command import print_table
from repro.errors import UserError, did_you_mean, first_of
from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import read_usage, this_cluster
from slurm.jobs.states import ELSEWHERE, LIVE, REMEDIES, JobStates, RunView
from sweeps.local.progress import completed_epochs, last_row
from sweeps.report import counts_text, in_order

#: Of a table with more runs than this only those are listed that are live or need attention.
_LISTED = 60

#: Lines that are shown of the end of a log.
_LINES = 40


def print_status(runs: Path, specs: list[str], *, every: bool) -> int:
    """Print for each spec the grid of cells and below it its runs; return 1 when a run needs attention, or waits for ever."""
    plans = Ledger(runs).plans(specs)
    if not plans:
        print(f"nothing was submitted from {runs}")
        return 0
    cluster = JobStates(runs)
    if cluster.answer is not None:
        print(f"SLURM does not answer, so this is what run folders and the ledger say: {cluster.answer}", file=sys.stderr)
    attention = False
    for plan in plans:
        views = cluster.views(plan["runs"], {name: run["inputs"] for name, run in plan["runs"].items()})
        print(f"{plan['spec']}: {plan['title']}")
        _print_grid(plan, views)
        _print_runs(runs, plan, views, every=every)
        counts = Counter(view.state for view in views.values())
        print(f"{len(views)} runs: " + ", ".join(f"{counts[state]} {state}" for state in in_order(counts)))
        for state in in_order(counts.keys() & REMEDIES.keys()):
            print(f"{state}: {REMEDIES[state]}")
        attention = attention or any(view.stuck or view.state in ("failed", "lost", "damaged", "cancelled") for view in views.values())
        for why in dict.fromkeys(view.why for view in views.values() if view.stuck):
            jobs = [str(view.job) for view in views.values() if view.stuck and view.why == why]
            print(f"will never begin by themselves, jobs {first_of(jobs)}: {why}")
    return 1 if attention else 0


def _print_grid(plan: Mapping[str, Any], views: Mapping[str, RunView]) -> None:
    columns = list(dict.fromkeys(cell["column"] for cell in plan["cells"]))
    rows = list(dict.fromkeys(cell["row"] for cell in plan["cells"]))
    shown = [cell for cell in plan["cells"] if cell["runs"]]
    texts = {(cell["row"], cell["column"]): counts_text([views[name].state for name in cell["runs"]]) for cell in shown}
    print_table([["", *columns], *([row, *(texts.get((row, column), "-") for column in columns)] for row in rows)])
    finals = {name for cell in shown for name in cell["runs"]}
    if inputs := [view.state for name, view in views.items() if name not in finals]:
        print(f"their inputs: {counts_text(inputs)}")


def _print_runs(runs: Path, plan: Mapping[str, Any], views: Mapping[str, RunView], *, every: bool) -> None:
    quiet: Collection[str] = () if every else ("done", "missing") if len(views) <= _LISTED else ("done", "missing", "queued")
    lines = [["state", "job", "node", "epoch", "time left", "run", ""]]
    for name, view in views.items():
        if view.state not in quiet:
            run, why = plan["runs"][name], f": {view.why}" if view.why else ""
            far = _progress(runs / name, view, run["epochs"])
            lines.append([view.state, view.job or "", view.node, *far, run["place"], f"({name}){why}"])
    if len(lines) > 1:
        print_table(lines)


def _progress(folder: Path, view: RunView, epochs: int) -> tuple[str, str]:
    """Return how far a run is, and how long its training will still take."""
    row = last_row(folder)
    if not row:
        return "", ""
    done = completed_epochs(row)
    seconds = row.get("time/epoch_s")
    if view.state not in ("running", "starting") or not isinstance(seconds, float):
        return f"{done}/{epochs}", ""
    return f"{done}/{epochs}", str(dt.timedelta(seconds=round(seconds * (epochs - done))))


def print_summary(runs: Path, specs: list[str]) -> int:
    """Print what the jobs of specs took that are over, every attempt of them, beside what they asked for."""
    ledger = Ledger(runs)
    wanted = {name for plan in ledger.plans(specs) for name in plan["runs"]}
    items = [item for item in ledger.read() if wanted.intersection(item.runs) and item.is_mine(this_cluster())]
    used = read_usage({job: item.name for item in items for job in item.jobs})
    if not used:
        print("no accounts: there is no sacct, or it knows no job of these that is over. `status` needs none.")
        return 0
    lines = [["array", "attempts", "hours", "GPU-hours", "CPUs busy", "GPU busy", "memory of the largest"]]
    for name in (*dict.fromkeys(each.name for each in used), "all"):
        group = [each for each in used if name in (each.name, "all")]
        seconds = [(each.elapsed_s, each.elapsed_s * each.gpus, each.elapsed_s * each.cpus, each.cpu_s) for each in group]
        spent, on_gpus, on_cpus, busy = (sum(values) / 3600 for values in zip(*seconds, strict=True))
        measured = [(each.gpu_percent, each.elapsed_s) for each in group if each.gpu_percent is not None]
        on_gpu = f"{sum(p * s for p, s in measured) / sum(s for _, s in measured):.0f}%" if measured else "not measured" if on_gpus else ""
        largest = max(group, key=lambda each: each.peak)
        memory = f"{largest.peak:,.0f} of {largest.memory:,.0f} MiB"
        lines.append([name, str(len(group)), f"{spent:,.2f}", f"{on_gpus:,.2f}", f"{busy / on_cpus:.0%}", on_gpu, memory])
    print_table(lines)
    return 0


def stop(runs: Path, names: list[str]) -> int:
    """Cancel the live jobs of specs or runs; return 1 when some are elsewhere and were not cancelled.

    Raises:
        UserError: a name is neither a spec that was submitted nor a run; SLURM does not answer.
    """
    ledger = Ledger(runs)
    with ledger.lock():
        cluster = JobStates(runs)
        if cluster.answer is not None:
            raise UserError(f"{cluster.answer} Nothing was cancelled.")
        plans = {plan["spec"]: plan for plan in ledger.plans()}
        known = {name for item in cluster.submitted for _, name in item.pairs}
        wanted: dict[str, None] = {}
        for name in names:
            if name not in plans and name not in known:
                raise UserError(f"{name}: neither a spec that was submitted nor a run of one.{did_you_mean(name, [*plans, *known])}")
            wanted |= dict.fromkeys(plans[name]["runs"] if name in plans else [name])
        cluster.save_ends()
        views = cluster.views(wanted, {}).values()
        jobs = list(dict.fromkeys(view.job for view in views if view.state in LIVE and view.job is not None and not view.outside))
        sharing = cluster.cancel(jobs)
    print(f"cancelled {len(jobs)} jobs with {len(sharing)} runs; what they have saved stays, and `submit` resumes from it")
    for name in sorted(sharing - set(wanted)):
        print(f"with them, since it shares a GPU: {name}")
    elsewhere = Counter(view.state for view in views if view.state.startswith(ELSEWHERE))
    for state, count in elsewhere.items():
        print(f"not cancelled, {count} runs {state}; they can be cancelled from there only")
    return 1 if elsewhere else 0


def print_log(runs: Path, name: str, *, follow: bool) -> int:
    """Print the end of the logs of a run, or of a job of this folder, and of the jobs or runs that belong to it.

    With ``follow`` this process becomes ``tail`` and shows what is added, until Ctrl-C.

    Raises:
        UserError: there is no such run or job, or it has no log yet.
    """
    ledger = Ledger(runs)
    paths = [runs / "logs" / f"{name}.log"]
    for item in ledger.read():
        meant = [(job, run) for job, run in item.pairs if name in (job, run)]
        paths += [runs / "logs" / f"{run}.log" for job, run in meant if job == name]
        jobs = dict.fromkeys(job for job, _ in meant)
        paths += [ledger.folder_of(item) / f"{job}_0_log.{kind}" for job in jobs for kind in ("out", "err")]
    found = [path for path in paths if path.is_file() and path.stat().st_size]
    if not found:
        known = [path.stem for path in (runs / "logs").glob("*.log")]
        raise UserError(f"{name}: there is no log yet.{did_you_mean(name, known)} Looked for {paths[0]}.")
    if follow:
        sys.stdout.flush()
        os.execvp("tail", ["tail", "-v", "-n", str(_LINES), "-F", *map(str, found)])
    for path in found:
        print(f"==> {path} <==")
        print("\n".join(path.read_text(errors="replace").splitlines()[-_LINES:]))
    return 0
