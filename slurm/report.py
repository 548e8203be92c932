"""What `submit` says before and after it does something."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from repro.command import print_table
from repro.errors import first_of
from slurm.cluster import Cluster
from slurm.jobs import sbatch
from slurm.jobs.queue import callers_options
from slurm.jobs.submission import Choice, Sent
from sweeps.local.gpus import visible_gpus
from sweeps.plan.disk import print_disk
from sweeps.plan.gpus import GPUS, known_gpu
from sweeps.plan.plan import Plan
from sweeps.report import print_hours_of

#: As many runs with a reason are named; of the others only the number.
_NAMED = 12


def print_choice(plan: Plan, site: Cluster, choice: Choice) -> None:
    """Print how far the runs are, what would be submitted, and what it costs."""
    states = Counter(view.state for view in choice.views.values())
    print(f"{len(plan.runs)} runs on cluster {site.name}: " + ", ".join(f"{count} {state}" for state, count in states.items()))
    if site.max_jobs is not None:
        print(f"at most {site.max_jobs} jobs of yours in the queue at a time (max_jobs); what is more waits")
    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    for why, count in Counter(choice.left.values()).items():
        print(f"not submitted, {count} run{'s' * (count > 1)}: {why}")
        names = [name for name, reason in choice.left.items() if reason == why and not why.startswith("beyond")]
        for name in names[:_NAMED]:
            print(f"  {plan.runs[name].place} ({name})")
    if not choice.batches:
        print("nothing to submit")
        return
    kinds: Counter[tuple[str, int, int, str, str]] = Counter()
    for batch in choice.batches:
        part = site.of(batch.model, batch.hours(choice.hours))
        limits = f"{part.minutes['default']} min, {part.memory_of(batch.width)}M, {part.cpus} CPUs"
        after = f", each after {len(batch.after[0])} runs" if batch.after[0] else ""
        kinds[batch.name, len(batch.tasks), len(batch.runs), limits, after] += 1
    lines = [[f"{n} x {tasks}", f"{n * runs}", limits, f"{name}{after}"] for (name, tasks, runs, limits, after), n in kinds.items()]
    print_table([["jobs", "runs", "limits of a job", "array"], *lines])
    jobs = [len(batch.tasks) for batch in choice.batches]
    single = jobs.count(1)
    print(f"{len(choice.send)} runs in {sum(jobs)} jobs: {len(jobs) - single} arrays and {single} single jobs, {len(jobs)} calls of sbatch")


def print_hours(plan: Plan, site: Cluster, names: Collection[str]) -> None:
    """Print the hours of the runs ``names``, on the GPUs or CPUs that the cluster has for them, and the disk."""
    parts = {name: site.of(str(plan.runs[name].fields["model.name"])) for name in names}
    for named in dict.fromkeys(part.gpu for part in parts.values()):
        gpu = known_gpu(named)
        if gpu is None and named not in ("any", "none"):
            print(f"{site.at('gpu')}: the peaks of gpu: {named} are not known, so another is planned for. Known: {', '.join(GPUS)}.")
        said = f"as {site.path.name} says" if gpu else f"assumed; gpu: in {site.path.name} names another"
        on_cpu = named == "none" or (site.kind != "slurm" and not visible_gpus())
        print_hours_of(plan, [name for name in names if parts[name].gpu == named], gpu=gpu, said=said, on_cpu=on_cpu)
    at_a_time = min(len(names), (site.max_parallel or len(names)) * max((part.runs_per_gpu for part in parts.values()), default=1))
    print_disk(plan, names, at_a_time=at_a_time)


def print_text(plan: Plan, site: Cluster, choice: Choice) -> None:
    """Print the text that sbatch would get for the first array."""
    print(f"\nsbatch text of {choice.batches[0].name} (the first of {len(choice.batches)}):")
    batch = choice.batches[0]
    print(sbatch.dry_text(site.of(batch.model, batch.hours(choice.hours)), batch, plan.folder))


def print_sent(sent: Sent) -> None:
    """Print what was submitted, and the variables that sbatch would have obeyed."""
    if sent.jobs and (names := callers_options()):
        print(f"not given to sbatch, so that the cluster file decides: {first_of(names, 8)}")
    if sent.waiting and sent.error is None:
        print(f"{len(sent.waiting)} runs wait for room in the queue: {sent.full}. The same command sends them then; --follow waits for it.")
    jobs = ", ".join(sent.jobs) if len(sent.jobs) <= 6 else f"{', '.join(sent.jobs[:3])} ... {sent.jobs[-1]}"
    print(f"submitted {sent.runs} runs with {len(sent.jobs)} calls of sbatch" + (f": {jobs}" if jobs else ""))
