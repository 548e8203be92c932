"""``python -m slurm submit|retry|tune|status|cancel|doctor``: the runs of a table on a SLURM cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from repro.command import exit_code_of, whole_number
from repro.errors import UserError, first_of
from slurm.cluster import known_clusters, load_cluster
from slurm.states import forget_options
from slurm.status import cancel, keep_plan, print_status
from sweeps.scales import PAPER, load_scale
from sweeps.selection import add_options, select
from sweeps.spec import load_spec

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

    It is 0; 1 when runs need attention; 2 for a user's mistake.
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
    runs = Path(args.runs or (site and site.paths.get("runs")) or os.environ.get("REPRO_RUNS", "runs"))
    if names := forget_options():
        print(f"not given to SLURM, so that the cluster file decides: {first_of(names, 8)}", file=sys.stderr)
    if args.command == "status":
        return print_status(runs, args.name)
    if args.command == "cancel":
        return cancel(runs, args.name)
    if site is None:
        raise UserError(f"name a cluster: --cluster NAME, or $REPRO_CLUSTER. Known: {', '.join(known_clusters())}.")
    if args.command == "doctor":
        from slurm.doctor import check_cluster

        check_cluster(site, runs)
        return 0
    scale, specs = load_scale(args.scale), [load_spec(name) for name in dict.fromkeys(args.spec)]
    site = site if args.max_jobs is None else site.model_copy(update={"max_jobs": args.max_jobs})
    # With these comes PyTorch.
    from slurm.submit import check_site, submit, tune
    from sweeps.plan import make_plan, write_plans

    check_site(site)
    if args.command == "tune":
        tune(specs, scale, runs, site, args)
        return 0
    plan = make_plan(specs, scale, runs)
    if not args.dry_run:
        write_plans(plan)
        keep_plan(plan)
    submit(select(plan, only=args.only, seeds=args.seeds), site, args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
