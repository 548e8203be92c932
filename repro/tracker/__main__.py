"""``python -m repro.tracker sync|workspace``: bring a server up to date with runs, save the dashboards."""

from __future__ import annotations

import argparse
import functools
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.command import exit_code_of
from repro.errors import UserError
from repro.tracker.mirror import isolate

#: The project that runs go to unless told otherwise; the default of ``tracker.project``.
PROJECT = "soft-labels-repro"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0; 1 when a run is not complete; 2 for a user's mistake."""
    options = _parser().parse_args(arguments)

    def command() -> int:
        # The client keeps its own files in a folder that goes away; what a run's upload writes goes to the run's folder.
        with tempfile.TemporaryDirectory(prefix="repro-tracker-", ignore_cleanup_errors=True) as folder:
            isolate(Path(folder))
            return int(options.run(options) or 0)

    return exit_code_of(command)


def _sync(options: argparse.Namespace) -> int:
    folders = _folders(options)
    from repro.tracker.contents import Contents
    from repro.tracker.server import Server
    from repro.tracker.sync import sync

    connected = functools.cache(Server)
    failed = 0
    for folder in folders:
        try:
            target = Contents(folder).tracker
        except UserError:
            target = {}  # sync itself says what is wrong, and the next folder's turn comes
        server = connected(options.project or target.get("project") or PROJECT, options.entity or target.get("entity"))
        try:
            outcome = sync(folder, server)
        except (UserError, OSError) as error:
            outcome = f"failed ({error})"
        failed += outcome.startswith("failed")
        print(f"{folder.name}: {outcome}", flush=True)
    return 1 if failed else 0


def _workspace(options: argparse.Namespace) -> None:
    from repro.tracker.dashboards import save
    from repro.tracker.server import Server

    print(save(Server(options.project or PROJECT, options.entity), options.url))


def _folders(options: argparse.Namespace) -> list[Path]:
    folders: list[Path] = []
    for folder in map(Path, options.folders):
        inside = [folder] if (folder / "identity.json").exists() else sorted(path.parent for path in folder.glob("*/identity.json"))
        if not inside:
            raise UserError(f"{folder} is no run folder, and none lies in it. Name run folders, or the folder of all runs.")
        folders += inside
    return list(dict.fromkeys(path.resolve() for path in folders))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m repro.tracker", description="The Weights & Biases mirror of runs.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=summary, description=summary)
        added.set_defaults(run=run)
        return added

    sync = verb("sync", _sync, "upload the epochs that are missing on the server and compare them; may be repeated, and run from cron")
    runs = os.environ.get("REPRO_RUNS", "runs")
    sync.add_argument("folders", nargs="*", default=[runs], metavar="RUN", help=f"run folders, or folders of them (default: {runs})")
    workspace = verb("workspace", _workspace, "save the dashboards to a project")
    workspace.add_argument("action", choices=("save",))
    workspace.add_argument("--url", help="a saved view to write over (default: a new view)")
    for one in (sync, workspace):
        one.add_argument("--project", help=f"W&B project (default: the run's own, else {PROJECT})")
        one.add_argument("--entity", help="W&B user or team (default: the run's own, else the account's)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
