"""``python -m slurm submit|retry|tune|status|cancel|doctor``: the runs of a table on a SLURM cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.command import exit_code_of, print_table, whole_number
from repro.errors import UserError, first_of
from repro.runs.lock import acquire
from slurm.cluster import Cluster, known_clusters, load_cluster
from slurm.states import Jobs, forget_options, look_at_queue, read_queue
from slurm.status import cancel, keep_plan, print_status
from sweeps.selection import add_options, select
from sweeps.spec import PAPER, Scale, Spec, load_scale, load_spec, tuned_folder

if TYPE_CHECKING:
    from slurm.submit import Batch
    from sweeps.launch import Outcome
    from sweeps.plan import Plan

_COMMANDS = {
    "submit": "submit what is missing; calling it again submits what is missing then",
    "retry": "submit what is missing, and what has failed too",
    "tune": "submit the grids of the specs' tunings; when they are done, note the values that are best on validation images",
    "status": "show how far the runs are, and where; 1 when one of them needs attention",
    "cancel": "stop the jobs of specs or of single runs; what they have saved stays",
    "doctor": "check a cluster file, and with a job of a minute that runs train there and come back when they are interrupted",
}


_CHANGED = "what becomes of runs that a different version of the code made (default: refuse)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    It is 0; 1 when runs need attention or a check has failed; 2 for a user's mistake.
    """
    args = _parser().parse_args(arguments)
    return exit_code_of(lambda: _command(args))


def _parser() -> argparse.ArgumentParser:
    clusters = f"a name ({', '.join(known_clusters())}) or the path of a .yaml file (default: $REPRO_CLUSTER)"
    parser = argparse.ArgumentParser(prog="python -m slurm", description="The runs of a table or figure on a SLURM cluster.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, help_text in _COMMANDS.items():
        command = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
        command.add_argument("--cluster", default=os.environ.get("REPRO_CLUSTER"), metavar="NAME", help=clusters)
        command.add_argument("--runs", metavar="DIR", help="run folders (default: the cluster's paths.runs, $REPRO_RUNS, or runs)")
        if name == "doctor":
            command.add_argument("--no-job", action="store_true", help="submit no test job")
            continue
        if name in ("status", "cancel"):
            command.add_argument("name", nargs="*" if name == "status" else "+", metavar="NAME", help="a spec that was submitted, or a run")
            continue
        command.add_argument("spec", nargs="+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
        command.add_argument("--scale", default=PAPER, metavar="NAME", help="a name or the path of a .yaml file (default: paper)")
        command.add_argument("--dry-run", action="store_true", help="print runs, arrays, hours and the text for sbatch; submit nothing")
        command.add_argument("--yes", action="store_true", help="do not ask")
        command.add_argument("--max-jobs", type=whole_number, metavar="N", help="jobs of yours in the queue; the next call sends the rest")
        command.add_argument("--after", action="append", default=[], metavar="JOB", help="begin when that job has ended well")
        command.add_argument("--changed-code", choices=("refuse", "retrain", "accept"), default="refuse", help=_CHANGED)
        if name != "tune":
            add_options(command)
    return parser


def _command(args: argparse.Namespace) -> int:
    site = None if args.cluster is None else load_cluster(args.cluster)
    runs = Path(args.runs or (site and site.paths.runs) or os.environ.get("REPRO_RUNS", "runs"))
    if names := forget_options():
        print(f"not given to SLURM, so that the cluster file decides: {first_of(names, 8)}", file=sys.stderr)
    if args.command == "status":
        return print_status(runs, args.name)
    if args.command == "cancel":
        return cancel(runs, args.name)
    if site is None:
        raise UserError(f"name a cluster: --cluster NAME, or $REPRO_CLUSTER. Known: {', '.join(known_clusters())}.")
    if args.command == "doctor":
        from slurm.doctor import examine

        return examine(site, runs, job=not args.no_job)
    scale, specs = load_scale(args.scale), [load_spec(name) for name in dict.fromkeys(args.spec)]
    site = site if args.max_jobs is None else site.model_copy(update={"max_jobs": args.max_jobs})
    # With these comes PyTorch.
    from slurm.submit import check_site
    from sweeps.plan import make_plan, write_plans

    check_site(site)
    if args.command == "tune":
        _tune(args, site, specs, scale, runs)
        return 0
    plan = make_plan(specs, scale, runs)
    if not args.dry_run:
        write_plans(plan)
        keep_plan(plan)
    _submit(args, site, select(plan, only=args.only, seeds=args.seeds))
    return 0


def _tune(args: argparse.Namespace, site: Cluster, specs: Sequence[Spec], scale: Scale, runs: Path) -> None:
    from repro.runs.state import read_state
    from sweeps.launch import Outcome
    from sweeps.report import print_chosen
    from sweeps.tuning import tune

    waits: list[str] = []

    def execute(plan: Plan) -> Outcome:
        if not args.dry_run:
            keep_plan(plan)
        _submit(args, site, plan)
        waits.extend(name for name in plan.runs if read_state(runs / name) not in ("done", "failed"))
        return Outcome(changed={name for name, run in plan.runs.items() if run.changed}, out_of_time=bool(waits))

    chosen = tune(specs, scale, runs, tuned_folder(), execute)
    if waits:
        print(f"{len(waits)} runs of the grids are not done; when they are, the same command chooses the values")
    else:
        print_chosen(chosen, tuned_folder() / f"{scale.name}.yaml")


def _submit(args: argparse.Namespace, site: Cluster, plan: Plan) -> None:
    from slurm.snapshot import take_snapshot
    from slurm.submit import sender, text, walk

    batches: list[Batch] = []

    def collect(batch: Batch) -> list[str]:
        batches.append(batch)
        return [f"JOB{len(batches)}_{index}" for index in range(len(batch.tasks))]

    options = {"retry": args.command == "retry", "after": args.after, "changed_code": args.changed_code}
    queue = look_at_queue() if args.dry_run else read_queue()
    left = walk(plan, Jobs(plan.folder, queue), site, collect, **options)
    _print_choice(plan, site, batches, left)
    if args.dry_run and batches:
        folder = plan.folder.resolve()
        print(f"\nthe first text for sbatch, of {batches[0].name}:")
        print(text(batches[0], folder, folder / "slurm" / "TOKEN", folder / "code" / "SHA256"))
    elif batches and (args.yes or _agreed()):
        (plan.folder / "slurm").mkdir(parents=True, exist_ok=True)
        with acquire(plan.folder / "slurm" / ".lock", timeout_s=600):
            jobs = Jobs(plan.folder, read_queue())
            send = sender(plan, jobs, take_snapshot(plan.folder), args.changed_code)
            walk(plan, jobs, site, send, **options)
        print("submitted; `python -m slurm status` shows how far the runs are")


def _print_choice(plan: Plan, site: Cluster, batches: Sequence[Batch], left: Mapping[str, str]) -> None:
    from sweeps.report import print_hours

    for name in plan.untuned:
        print(f"not tuned yet: {name}")
    for why, count in Counter(left.values()).items():
        print(f"not submitted, {count} runs: {why} ({first_of([name for name in left if left[name] == why], 2)})")
    lines = [["jobs", "runs", "limits of a job", "array"]]
    for batch in batches:
        part, runs = batch.site, sum(map(len, batch.tasks))
        limits = f"{part.time} min, {part.memory} a run, {part.cpus} CPUs, GPU: {part.gpu}"
        lines.append([str(len(batch.tasks)), str(runs), limits, batch.name + (f", after {len(batch.after)} jobs" if batch.after else "")])
    print_table(lines)
    sent = [name for batch in batches for task in batch.tasks for name in task]
    print(f"{len(sent)} of {len(plan.runs)} runs to submit to {site.name}, with {len(batches)} calls of sbatch")
    if sent:
        print_hours(plan, sent)


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("this is no terminal to ask in: --yes submits without a question, --dry-run shows what would be submitted.")
    return input("Submit? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main())
