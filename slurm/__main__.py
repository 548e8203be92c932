"""``python -m slurm submit|retry|tune|status|cancel|logs|doctor``: the runs of a table or figure on a SLURM cluster, or on this machine."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repro.command import exit_code_of, whole_number
from repro.errors import UserError
from slurm.cluster import Cluster, known_clusters, load_cluster
from sweeps.local.progress import Outcome
from sweeps.plan.selection import add_options, select
from sweeps.spec.load import load_spec
from sweeps.spec.scale import PAPER, load_scale

if TYPE_CHECKING:
    from sweeps.plan.plan import Plan

#: Seconds between two looks at the queue, of `submit --follow` and `status --watch`.
FOLLOW_S = 30.0

_COMMANDS = {
    "submit": "submit what is missing; calling it again submits what is missing then",
    "retry": "submit what is missing, and what has failed too",
    "tune": "submit the grids of the specs' tunings; when they are done, note the values that are best on validation images",
    "status": "show how far the runs are, and where; 1 when a run failed, was cancelled, is lost, or would wait for ever",
    "cancel": "stop the jobs of specs or of single runs; what they have saved stays",
    "logs": "show the end of the logs of a run or a job",
    "doctor": "check a cluster file, and that a job of a minute can do all that a run needs",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code.

    It is 0; 1 when runs need attention or a check has failed; 2 for a user's mistake; 128 + N when stopped by signal N.
    """
    chosen = _parser().parse_args(arguments)
    return exit_code_of(lambda: _command(chosen))


def _command(chosen: argparse.Namespace) -> int:
    site = None if chosen.cluster is None else load_cluster(chosen.cluster)
    runs = Path(chosen.runs or (site and site.paths.runs) or os.environ.get("REPRO_RUNS", "runs"))
    if chosen.command in ("submit", "retry", "tune", "doctor"):
        if site is None:
            raise UserError(f"name a cluster: --cluster NAME, or $REPRO_CLUSTER. Known: {', '.join(known_clusters())}.")
        if chosen.command != "doctor":
            return _submit(chosen, site, runs)
        from slurm.doctor import examine

        return examine(site, runs, job=not chosen.no_job)
    # These read files and ask SLURM: nothing of a run's own code is needed.
    from slurm import watch

    if chosen.command == "logs":
        return watch.print_log(runs, chosen.run, follow=chosen.follow)
    names = [_spec_name(name, chosen.scale) for name in chosen.name]
    if chosen.command == "cancel":
        return watch.stop(runs, names)
    while True:
        code = watch.print_status(runs, names, every=chosen.all)
        if not chosen.watch:
            return code
        time.sleep(FOLLOW_S)
        print(f"\n{time.strftime('%H:%M:%S')}")


def _parser() -> argparse.ArgumentParser:
    clusters = f"a name ({', '.join(known_clusters())}) or the path of a .yaml file"
    parser = argparse.ArgumentParser(
        prog="python -m slurm",
        description="The runs of a table or figure on a SLURM cluster, or on this machine.",
        epilog=f"Clusters: {clusters}.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument(
            "--cluster", default=os.environ.get("REPRO_CLUSTER"), metavar="NAME", help=f"{clusters} (default: $REPRO_CLUSTER)"
        )
        command.add_argument("--runs", metavar="DIR", help="run folders (default: the cluster's paths.runs, $REPRO_RUNS, or runs)")
        if name in ("submit", "retry", "tune", "status", "cancel"):
            command.add_argument(
                "--scale", default=PAPER.title, metavar="NAME", help="how large: a name or the path of a .yaml file (default: %(default)s)"
            )
        if name in ("submit", "retry", "tune"):
            command.add_argument("spec", nargs="+", metavar="SPEC", help="a name such as demo, or the path of a .yaml file")
            command.add_argument(
                "--dry-run", action="store_true", help="print runs, arrays, GPU-hours and the text for sbatch; submit nothing"
            )
            command.add_argument("--yes", action="store_true", help="do not ask")
            command.add_argument("--limit", type=whole_number, metavar="N", help="submit at most N runs, inputs first")
            command.add_argument("--max-parallel", type=whole_number, metavar="N", help="jobs of an array at a time")
            command.add_argument("--max-jobs", type=whole_number, metavar="N", help="jobs of yours in the queue at a time, over all arrays")
            command.add_argument(
                "--follow",
                action="store_true",
                help="stay until there was room in the queue for every run, and until grids of tunings are done",
            )
            command.add_argument("--retry", action="store_true", help="submit those again that failed before")
        if name in ("submit", "retry"):
            command.add_argument("--tune", action="store_true", help="tune first; the runs of the specs follow when that is done")
            add_options(command)
        elif name == "status":
            command.add_argument("name", nargs="*", metavar="SPEC", help="specs that were submitted (default: all)")
            command.add_argument("--all", action="store_true", help="list every run, also those that are done")
            command.add_argument("--watch", action="store_true", help="show it again every half minute, until Ctrl-C")
        elif name == "cancel":
            command.add_argument("name", nargs="+", metavar="SPEC|RUN", help="a spec that was submitted, or the id of a run")
        elif name == "logs":
            command.add_argument("run", metavar="RUN|JOB", help="the id of a run, or of a job as squeue shows it")
            command.add_argument("--follow", action="store_true", help="go on with what is added, until Ctrl-C")
        elif name == "doctor":
            command.add_argument("--no-job", action="store_true", help="submit no test job")
    return parser


def _spec_name(name: str, scale: str) -> str:
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return stem if scale == PAPER.title or "-" in stem else f"{stem}@{load_scale(scale).title}"


def _submit(chosen: argparse.Namespace, site: Cluster, runs: Path) -> int:
    scale = load_scale(chosen.scale)
    specs = [load_spec(name, scale) for name in dict.fromkeys(chosen.spec)]
    # PyTorch comes with the methods that are composed; a mistake in a file is found without it.
    from slurm.jobs.ledger import Ledger
    from slurm.jobs.submission import check_models
    from sweeps.local.tuning import tune
    from sweeps.plan.plan import make_plan, write_plans
    from sweeps.report import print_chosen
    from sweeps.spec.chosen import tuned_folder

    check_models(site)
    given = {key: value for key in ("max_parallel", "max_jobs") if (value := getattr(chosen, key)) is not None}
    site = site.model_copy(update=given)
    if chosen.command == "tune" or chosen.tune:
        outcomes: list[Outcome] = []

        def execute(plan: Plan) -> Outcome:
            outcomes.append(_carry_out(chosen, site, plan, lambda: Ledger(runs).write_plans(plan)))
            if site.kind == "slurm" and outcomes[-1].stopped_by is None:
                outcomes[-1] = _wait_for(plan, follow=chosen.follow and not chosen.dry_run)
            return outcomes[-1]

        print_chosen(tune(specs, scale, runs, tuned_folder(), execute), tuned_folder() / f"{scale.title}.yaml")
        waits = any(outcome.stopped_by is not None or outcome.out_of_time for outcome in outcomes)
        if waits:
            print("the grids are not done; the same command chooses from them when they are, and goes on")
        if waits or chosen.command == "tune":
            return max((outcome.exit_code for outcome in outcomes if not outcome.out_of_time), default=0)
        specs = [load_spec(name, scale) for name in dict.fromkeys(chosen.spec)]
    whole = make_plan(specs, runs)

    def note() -> None:
        write_plans(whole)
        Ledger(runs).write_plans(whole)

    code = _carry_out(chosen, site, select(whole, only=chosen.only, seeds=chosen.seeds), note).exit_code
    if site.kind == "slurm" and not chosen.dry_run and code == 0:
        print(f"watch: {_status_command(chosen)}")
    return code


def _carry_out(chosen: argparse.Namespace, site: Cluster, plan: Plan, note: Callable[[], None]) -> Outcome:
    """Train what is missing of ``plan`` here, or submit it, as the options say; ``note`` is called when it is certain that it will be."""
    from slurm import report
    from slurm.here import run_here
    from slurm.jobs import submission
    from slurm.jobs.queue import NoAnswerError
    from slurm.jobs.states import JobStates
    from sweeps.report import print_outcome

    retry = chosen.retry or chosen.command == "retry"
    here = site.kind != "slurm"
    cluster = JobStates(plan.folder, always=not here and not chosen.dry_run)
    if cluster.answer is not None and not here:
        if not chosen.dry_run:
            raise UserError(f"{cluster.answer} Nothing was submitted.")
        print(f"SLURM does not answer, so this is what run folders and the ledger say: {cluster.answer}", file=sys.stderr)
    choice = submission.choose(plan, site, cluster, retry=retry, limit=chosen.limit)
    if here:
        print(f"{len(choice.send)} of {len(plan.runs)} runs to train here, on cluster {site.name}")
        report.print_hours(plan, site, choice)
    else:
        report.print_choice(plan, site, choice)
    if chosen.dry_run:
        if choice.batches and not here:
            report.print_text(plan, site, choice)
        return Outcome()
    if here:
        note()
        outcome = run_here(plan, site, retry=retry, limit=chosen.limit)
        print_outcome(plan, outcome)
        return outcome
    submission.check_data(site, [str(run.fields["dataset.name"]) for run in choice.send])
    if choice.batches and not chosen.yes and not _agreed():
        print("nothing was submitted")
        return Outcome(stopped_by=signal.SIGINT)
    note()
    sent = submission.send(plan, site, retry=retry, limit=chosen.limit)
    report.print_sent(sent)
    while chosen.follow and sent.waiting and sent.error is None:
        time.sleep(FOLLOW_S)
        try:
            # Nothing but what has waited: what was submitted and cancelled stays so.
            sent = submission.send(plan, site, retry=False, limit=None, names=sent.waiting, code=sent.code)
        except NoAnswerError as error:
            print(error, file=sys.stderr)
            continue
        if sent.jobs:
            report.print_sent(sent)
    if sent.error is not None:
        raise UserError(f"{sent.error} What was submitted stays; the same command submits the rest.")
    return Outcome()


def _wait_for(plan: Plan, *, follow: bool) -> Outcome:
    """Return how far the runs of ``plan`` are, with ``follow`` when none of them is in the queue any more."""
    from slurm.jobs.states import LIVE, JobStates

    while True:
        views = JobStates(plan.folder).views(plan.runs, {}).values()
        if not follow or not any(view.state in LIVE for view in views):
            done = {view.run_id for view in views if view.state == "done"}
            failed = {view.run_id: view.why for view in views if view.state == "failed"}
            return Outcome(done, failed, out_of_time=len(done) + len(failed) < len(views))
        time.sleep(FOLLOW_S)


def _status_command(chosen: argparse.Namespace) -> str:
    options = (("--scale", chosen.scale, PAPER.title), ("--runs", chosen.runs, None), ("--cluster", chosen.cluster, None))
    given = [word for option, value, default in options if value != default for word in (option, value)]
    return shlex.join(["python", "-m", "slurm", "status", *dict.fromkeys(chosen.spec), *given])


def _agreed() -> bool:
    if not sys.stdin.isatty():
        raise UserError("this is no terminal to ask in: --yes submits without a question, --dry-run shows what would be submitted.")
    return input("Submit? [y/N] ").strip().lower() in ("y", "yes")


if __name__ == "__main__":
    sys.exit(main())
