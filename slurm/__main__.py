"""``python -m slurm submit|retry|tune|status|summary|cancel|logs|doctor``: the runs of a table on a SLURM cluster, or on this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from repro.command import exit_code_of, whole_number
from repro.errors import UserError
from repro.snapshot import take_snapshot
from slurm import report, watch
from slurm.cluster import Cluster, known_clusters, load_cluster
from slurm.here import run_here
from slurm.jobs import submission
from slurm.jobs.ledger import Ledger
from slurm.jobs.queue import NoAnswerError
from slurm.jobs.states import LIVE, JobStates
from sweeps.local.progress import Outcome
from sweeps.local.tuning import tune
from sweeps.plan.apart import Apart
from sweeps.plan.cost import job_hours
from sweeps.plan.plan import Plan, make_plan, write_plans
from sweeps.plan.selection import add_options, select
from sweeps.report import print_chosen, print_outcome
from sweeps.spec.chosen import tuned_folder
from sweeps.spec.load import load_spec
from sweeps.spec.scale import PAPER, load_scale

#: Seconds between two looks at the queue, of `submit --follow` and `status --watch`.
FOLLOW_S = 30.0

_COMMANDS = {
    "submit": "submit what is missing; calling it again submits what is missing then",
    "retry": "submit what is missing, and what has failed too",
    "tune": "submit the grids of the specs' tunings; when they are done, note the values that are best on validation images",
    "status": "show how far the runs are, and where; 1 when a run failed, was cancelled, is lost, or would wait for ever",
    "summary": "show what the jobs of specs took of what they asked for, where SLURM keeps accounts: hours, CPU, memory, GPU",
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
            with contextlib.closing(Apart()) as apart:
                return _submit(chosen, site, runs, apart)
        from slurm.doctor import examine

        return examine(site, runs, job=not chosen.no_job)
    # These read files and ask SLURM: nothing of a run's own code is needed.
    if chosen.command == "logs":
        return watch.print_log(runs, chosen.run, follow=chosen.follow)
    names = [_spec_name(name, chosen.scale) for name in chosen.name]
    if chosen.command in ("cancel", "summary"):
        return {"cancel": watch.stop, "summary": watch.print_summary}[chosen.command](runs, names)
    while True:
        code = watch.print_status(runs, names, every=chosen.all)
        if not chosen.watch:
            return code
        time.sleep(FOLLOW_S)
        print(f"\n{time.strftime('%H:%M:%S')}")


def _parser() -> argparse.ArgumentParser:
    clusters = f"a name ({', '.join(known_clusters())}) or the path of a .yaml file"
    sends, names, flag = ("submit", "retry", "tune"), ("status", "summary", "cancel"), {"action": "store_true"}
    number = {"type": whole_number, "metavar": "N"}
    cluster, scale = ({"default": default, "metavar": "NAME"} for default in (os.environ.get("REPRO_CLUSTER"), PAPER.title))
    options: tuple[tuple[str, Collection[str], dict[str, Any], str], ...] = (
        ("--cluster", _COMMANDS, cluster, f"{clusters} (default: $REPRO_CLUSTER)"),
        ("--runs", _COMMANDS, {"metavar": "DIR"}, "run folders (default: the cluster's paths.runs, $REPRO_RUNS, or runs)"),
        ("--scale", (*sends, *names), scale, "how large: a name or the path of a .yaml file (default: %(default)s)"),
        ("spec", sends, {"nargs": "+", "metavar": "SPEC"}, "a name such as demo, or the path of a .yaml file"),
        ("--dry-run", sends, flag, "print runs, arrays, GPU-hours and the text for sbatch; submit nothing"),
        ("--yes", sends, flag, "do not ask"),
        ("--limit", sends, number, "submit at most N runs, inputs first"),
        ("--max-parallel", sends, number, "jobs of an array at a time"),
        ("--max-jobs", sends, number, "jobs of yours in the queue at a time, over all arrays"),
        ("--follow", sends, flag, "stay until there was room in the queue for every run, and until grids of tunings are done"),
        ("--retry", sends, flag, "submit those again that failed before"),
        (
            "--after",
            sends,
            {"metavar": "JOB"},
            "begin when that job has ended well, such as the download of the data, which need not be there",
        ),
        ("--tune", sends[:2], flag, "tune first; the runs of the specs follow when that is done"),
        ("name", names[:2], {"nargs": "*", "metavar": "SPEC"}, "specs that were submitted (default: all)"),
        ("--all", ("status",), flag, "list every run, also those that are done"),
        ("--watch", ("status",), flag, "show it again every half minute, until Ctrl-C"),
        ("name", ("cancel",), {"nargs": "+", "metavar": "SPEC|RUN"}, "a spec that was submitted, or the id of a run"),
        ("run", ("logs",), {"metavar": "RUN|JOB"}, "the id of a run, or of a job as squeue shows it"),
        ("--follow", ("logs",), flag, "keep printing what is added, until Ctrl-C"),
        ("--no-job", ("doctor",), flag, "submit no test job"),
    )
    title = "The runs of a table or figure on a SLURM cluster, or on this machine."
    parser = argparse.ArgumentParser(prog="python -m slurm", description=title, epilog=f"Clusters: {clusters}.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in _COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        for option, of, settings, said in options:
            if name in of:
                command.add_argument(option, **settings, help=said)
        if name in sends[:2]:
            add_options(command)
    return parser


def _spec_name(name: str, scale: str) -> str:
    stem = Path(name).stem if name.endswith((".yaml", ".yml")) else name
    return stem if scale == PAPER.title or "-" in stem else f"{stem}@{load_scale(scale).title}"


def _submit(chosen: argparse.Namespace, site: Cluster, runs: Path, apart: Apart) -> int:
    scale = load_scale(chosen.scale)
    specs = [load_spec(name, scale) for name in dict.fromkeys(chosen.spec)]
    # PyTorch comes with the methods that are composed.
    apart(submission.check_models, site)
    site = site.model_copy(update={key: value for key in ("max_parallel", "max_jobs") if (value := getattr(chosen, key)) is not None})
    if chosen.after is not None:
        site = site.model_copy(update={"sbatch": {**site.sbatch, "dependency": f"afterok:{chosen.after}"}})
    if chosen.command == "tune" or chosen.tune:
        outcomes: list[Outcome] = []

        def execute(plan: Plan) -> Outcome:
            outcomes.append(_carry_out(chosen, site, plan, apart, lambda: Ledger(runs).write_plans(plan)))
            if site.kind == "slurm" and outcomes[-1].stopped_by is None:
                outcomes[-1] = _wait_for(plan, follow=chosen.follow and not chosen.dry_run)
            return outcomes[-1]

        print_chosen(tune(specs, scale, runs, tuned_folder(), execute, apart), tuned_folder() / f"{scale.title}.yaml")
        waits = any(outcome.stopped_by is not None or outcome.out_of_time for outcome in outcomes)
        if waits:
            print("the grids are not done; give the same command again when they are: it chooses the values and continues")
        if waits or chosen.command == "tune":
            return max((outcome.exit_code for outcome in outcomes if not outcome.out_of_time), default=0)
        specs = [load_spec(name, scale) for name in dict.fromkeys(chosen.spec)]
    whole = apart(make_plan, specs, runs)

    def note() -> None:
        write_plans(whole)
        Ledger(runs).write_plans(whole)

    code = _carry_out(chosen, site, select(whole, only=chosen.only, seeds=chosen.seeds), apart, note).exit_code
    if site.kind == "slurm" and not chosen.dry_run and code == 0:
        print(f"watch: {_status_command(chosen)}")
    return code


def _carry_out(chosen: argparse.Namespace, site: Cluster, plan: Plan, apart: Apart, note: Callable[[], None]) -> Outcome:
    """Train what is missing of ``plan`` here, or submit it, as the options say; ``note`` is called when it is certain that it will be."""
    retry = chosen.retry or chosen.command == "retry"
    here = site.kind != "slurm"
    cluster = JobStates(plan.folder, always=not here and not chosen.dry_run)
    if cluster.answer is not None and not here:
        if not chosen.dry_run:
            raise UserError(f"{cluster.answer} Nothing was submitted.")
        print(f"SLURM does not answer, so this is what run folders and the ledger say: {cluster.answer}", file=sys.stderr)
    choice = submission.choose(plan, site, cluster, retry=retry, limit=chosen.limit)
    names = [run.run_id for run in choice.send]
    if here:
        print(f"{len(names)} of {len(plan.runs)} runs to train here, on cluster {site.name}")
    else:
        parts = {name: site.of(str(run.fields["model.name"])) for name, run in plan.runs.items()}
        if choice.batches and any(part.time_factor is not None for part in parts.values()):
            choice.hours = apart(job_hours, plan, {name: (part.gpu, part.cpus) for name, part in parts.items()})
        report.print_choice(plan, site, choice)
    if names:
        apart(report.print_hours, plan, site, names)
    if chosen.dry_run:
        if choice.batches and not here:
            report.print_text(plan, site, choice)
        return Outcome()
    if here:
        apart.close()
        note()
        outcome = run_here(plan, site, retry=retry, limit=chosen.limit)
        print_outcome(plan, outcome)
        return outcome
    if chosen.after is None:
        apart(submission.check_data, site, [str(run.fields["dataset.name"]) for run in choice.send])
    if choice.batches and not chosen.yes and not _agreed():
        print("nothing was submitted")
        return Outcome(stopped_by=signal.SIGINT)
    note()
    code = apart(take_snapshot, plan.folder) if choice.batches else None
    apart.close()
    sent = submission.send(plan, site, code, choice.hours, retry=retry, limit=chosen.limit)
    report.print_sent(sent)
    while chosen.follow and sent.waiting and sent.error is None:
        time.sleep(FOLLOW_S)
        try:
            # Nothing but what has waited: what was submitted and cancelled stays so.
            sent = submission.send(plan, site, code, choice.hours, retry=False, limit=None, names=sent.waiting)
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
