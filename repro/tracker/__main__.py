"""``python -m repro.tracker VERB ...``: look at runs, bring a server up to date with them, make dashboards."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.command import exit_code_of, positive
from repro.errors import UserError
from repro.tracker.environment import isolate

#: The project that runs go to unless told otherwise; the default of ``tracker.project``.
PROJECT = "soft-labels-repro"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0; 1 when a run is not complete; 2 for a user's mistake."""
    chosen = _parser().parse_args(arguments)

    def command() -> int:
        # The client keeps its own files in a folder that goes away; what a run's upload writes goes to the run's folder.
        with tempfile.TemporaryDirectory(prefix="repro-tracker-", ignore_cleanup_errors=True) as own:
            isolate(Path(own))
            return int(chosen.run(chosen) or 0)

    return exit_code_of(command)


def _view(chosen: argparse.Namespace) -> int:
    from repro.tracker.view import view

    return view(_folders(chosen), metrics=chosen.metrics)


def _sync(chosen: argparse.Namespace) -> int:
    folders = _folders(chosen)
    if chosen.new_id and len(folders) > 1:
        raise UserError("--as names one W&B run, so it goes with one run folder.")
    from repro.tracker.contents import Contents
    from repro.tracker.server import Server
    from repro.tracker.sync import sync

    connected = functools.cache(Server)
    failed = 0
    for folder in folders:
        own: dict[str, Any] = {}
        with contextlib.suppress(UserError):  # sync itself names the folder and goes on with the next
            own = Contents(folder).tracker
        server = connected(chosen.project or own.get("project") or PROJECT, chosen.entity or own.get("entity"))
        outcome = sync(folder, server, limit_s=chosen.limit, again=chosen.again, new_id=chosen.new_id)
        failed += outcome.state == "failed"
        if not (chosen.quiet and outcome.state in ("up to date", "waiting")):
            print(f"{outcome.run_id}: {outcome.state}" + (f" ({outcome.detail})" if outcome.detail else ""), flush=True)
    return 1 if failed else 0


def _workspace(chosen: argparse.Namespace) -> None:
    from repro.tracker.dashboards import save
    from repro.tracker.server import Server

    print(save(Server(chosen.project or PROJECT, chosen.entity), chosen.url))


def _picture(chosen: argparse.Namespace) -> None:
    from repro.tracker.picture import picture

    picture(_folders(chosen), chosen.out)
    print(chosen.out)


def metrics_table() -> str:
    """Return every metric as a Markdown table: its name, unit, direction, meaning, and where it stands."""
    from repro.metric_names import MAX_CLASS_SERIES, METRICS

    lines = ["| name | unit | better | what it is | in metrics.jsonl |", "|---|---|---|---|---|"]
    for metric in METRICS:
        limit = f"; for up to {MAX_CLASS_SERIES} classes" if "{k}" in metric.name else ""
        definition = metric.definition.replace("|", "\\|") + limit
        lines.append(f"| `{metric.name}` | {metric.unit} | {metric.better} | {definition} | {'no' if metric.mirror_only else 'yes'} |")
    return "\n".join(lines) + "\n"


def _folders(chosen: argparse.Namespace) -> list[Path]:
    found: list[Path] = []
    for name in chosen.folders or [chosen.runs]:
        folder = Path(name)
        if (folder / "identity.json").exists():
            found.append(folder)
        elif inside := sorted(path.parent for path in folder.glob("*/identity.json")):
            found += inside
        else:
            raise UserError(f"{folder} is no run folder, and none lies in it. Name run folders, or the folder of all runs.")
    return list(dict.fromkeys(path.resolve() for path in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m repro.tracker", description="The Weights & Biases mirror of runs.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    runs = os.environ.get("REPRO_RUNS", "runs")

    def verb(name: str, run: object, summary: str, *, folders: bool = True, server: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run, runs=runs)
        if folders:
            added.add_argument("folders", nargs="*", metavar="RUN", help=f"run folders, or folders of them (default: {runs})")
        if server:
            added.add_argument("--project", help=f"W&B project (default: the run's own, else {PROJECT})")
            added.add_argument("--entity", help="W&B user or team (default: the run's own, else the account's)")
        return added

    view = verb("view", _view, "charts in the terminal: no server, no account", server=False)
    view.add_argument("--metrics", metavar="REGEX", help="show metrics whose name matches (default: all but the series per class)")
    sync = verb("sync", _sync, "upload the epochs that are missing on the server and compare them; may be repeated, and run from cron")
    sync.add_argument("--limit", type=positive, default=300.0, metavar="SECONDS", help="time for one run (default: %(default)g)")
    sync.add_argument("--again", action="store_true", help="ask the server also about runs that the ledger says are complete")
    sync.add_argument("--quiet", action="store_true", help="name only runs that were sent or failed")
    sync.add_argument("--as", dest="new_id", metavar="NEW_ID", help="send the whole run as a new W&B run, where the old one was spoilt")
    workspace = verb("workspace", _workspace, "save the dashboards to a project", folders=False)
    workspace.add_argument("action", choices=("save",))
    workspace.add_argument("--url", help="a saved view to write over (default: a new view)")
    drawn = verb("picture", _picture, "draw the panels of the dashboards from run folders: no server, no account", server=False)
    drawn.add_argument("--out", type=Path, default="panels.png", metavar="FILE", help="where it goes (default: %(default)s)")
    verb(
        "metrics",
        lambda _: print(metrics_table(), end=""),
        "print the list of all metrics as Markdown, as docs/wandb.md has it",
        folders=False,
        server=False,
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
