"""What `submit` says before and after it does something."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from slurm import sbatch
from slurm.cluster import Cluster
from slurm.ledger import Ledger
from slurm.submission import Choice, Sent
from sweeps.cost import ASSUMED_TFLOPS, COUNTED, FINISHED, estimate
from sweeps.plan import Plan

#: As many runs with a reason are named; of the others only the number.
_NAMED = 12


def print_choice(plan: Plan, site: Cluster, choice: Choice, *, max_parallel: int | None) -> None:
    """Print how far the runs are, what would be submitted, and what it costs."""
    states = Counter(view.state for view in choice.views.values())
    print(f"{len(plan.runs)} runs on cluster {site.name}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    for why, names in _by_reason(choice).items():
        print(f"not submitted, {len(names)} run{'s' * (len(names) > 1)}: {why}")
        if not why.startswith("beyond"):
            for name in names[:_NAMED]:
                print(f"  {plan.runs[name].place} ({name})")
    if not choice.batches:
        print("nothing to submit")
        return
    print_batches(plan, site, choice, max_parallel)
    print_hours(plan, choice)


def _by_reason(choice: Choice) -> dict[str, list[str]]:
    reasons: defaultdict[str, list[str]] = defaultdict(list)
    for name, why in choice.left.items():
        reasons[why].append(name)
    return reasons


def print_batches(plan: Plan, site: Cluster, choice: Choice, max_parallel: int | None) -> None:
    """Print a line for each kind of array, and the number of calls of sbatch."""
    lines = [["jobs", "runs", "limits of a job", "array"]]
    kinds: Counter[tuple[str, int, int, str, str]] = Counter()
    for batch in choice.batches:
        given = sbatch.parameters(site, batch, token="", code=Path(), after=[], max_parallel=max_parallel)
        after = f", after {len(batch.after)} runs" if batch.after else ""
        kinds[batch.name, len(batch.tasks), len(batch.runs), sbatch.options(given), after] += 1
    for (name, tasks, runs, limits, after), count in kinds.items():
        lines.append([f"{count} x {tasks}", f"{count * runs}", limits, f"{name}{after}"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    jobs = sum(len(batch.tasks) for batch in choice.batches)
    single = sum(len(batch.tasks) == 1 for batch in choice.batches)
    print(
        f"{len(choice.send)} runs in {jobs} jobs: {len(choice.batches) - single} arrays and {single} single jobs, "
        f"{len(choice.batches)} calls of sbatch"
    )


def print_hours(plan: Plan, choice: Choice) -> None:
    """Print the GPU-hours of what would be submitted, by table and in all; a run that several tables need counts in each."""
    costs = estimate(plan)
    wanted = {run.run_id for run in choice.send}
    for spec in plan.specs:
        found = [costs[name].gpu_hours for name, run in plan.runs.items() if spec.name in run.specs and name in wanted]
        print(f"GPU-hours {spec.name}: {_hours(found)}")
    if len(plan.specs) > 1:
        print(f"GPU-hours together: {_hours([costs[name].gpu_hours for name in wanted])}")
    bases = Counter(costs[name].basis for name in wanted)
    for basis, count in bases.items():
        rate = f", at {ASSUMED_TFLOPS:g} TFLOP/s, which is assumed" if basis == COUNTED else ""
        known = basis in (COUNTED, FINISHED)
        print(f"  {count} runs by {basis}{rate}" if known else f"  {count} runs without estimate: {basis}")


def _hours(found: list[float | None]) -> str:
    total = sum(hours for hours in found if hours is not None)
    return "< 0.01" if 0.0 < total < 0.01 else (f"{total:,.2f}" if total < 10.0 else f"{total:,.0f}")


def print_text(plan: Plan, site: Cluster, choice: Choice, *, max_parallel: int | None) -> None:
    """Print the text that sbatch would get for the first array."""
    if not choice.batches:
        return
    batch = choice.batches[0]
    runs = plan.folder.resolve()
    folder = Ledger(runs).folder / "TOKEN"
    print(f"\nsbatch text of {batch.name} (the first of {len(choice.batches)}):")
    print(sbatch.dry_text(site, batch, runs / "code" / "SHA256", folder, [], max_parallel))


def print_sent(plan: Plan, sent: Sent, command: str) -> None:
    """Print what was submitted."""
    print(f"submitted {sent.runs} runs with {sent.calls} calls of sbatch" + (f": {_some(sent.jobs)}" if sent.jobs else ""))
    if sent.error is None:
        print(f"watch: {command}")


def _some(jobs: list[str]) -> str:
    return ", ".join(jobs) if len(jobs) <= 6 else f"{', '.join(jobs[:3])} ... {jobs[-1]}"
