"""``python -m repro.tracker VERB ...``: look at runs, upload offline ones, check a mirror, make dashboards, fetch runs from elsewhere."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.errors import EXIT_USER_ERROR, UserError
from repro.tracker.environment import isolate

if TYPE_CHECKING:
    from repro.tracker.server import Server

#: The project that runs go to unless told otherwise; the default of ``tracker.project``.
PROJECT = "soft-labels-repro"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit code: 0; 1 when a run is not complete or differs; 2 for a user's mistake."""
    chosen = _parser().parse_args(arguments)
    try:
        return int(chosen.run(chosen))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        return 130


def _view(chosen: argparse.Namespace) -> int:
    from repro.tracker.view import view

    return view(_folders(chosen), metrics=chosen.metrics)


def _sync(chosen: argparse.Namespace) -> int:
    folders = _folders(chosen)
    with _own_folder():
        from repro.tracker.sync import sync

        servers = _servers(chosen)
        failed = 0
        for folder in folders:
            outcome = sync(folder, servers(folder), limit_s=chosen.limit, again=chosen.again)
            failed += outcome.state == "failed"
            if not (chosen.quiet and outcome.state in ("up to date", "waiting")):
                print(f"{outcome.run_id}: {outcome.state}" + (f" ({outcome.detail})" if outcome.detail else ""), flush=True)
    return 1 if failed else 0


def _verify(chosen: argparse.Namespace) -> int:
    folders = _folders(chosen)
    with _own_folder():
        from repro.tracker.verify import verify

        servers = _servers(chosen)
        drifted = 0
        for folder in folders:
            problems = verify(folder, servers(folder) if chosen.online else None)
            drifted += bool(problems)
            print(f"{folder.name}: " + ("as metrics.jsonl" if not problems else "; ".join(problems[:5])), flush=True)
    return 1 if drifted else 0


def _publish(chosen: argparse.Namespace) -> int:
    folders = _folders(chosen)
    if chosen.id and len(folders) > 1:
        raise UserError("--id names one W&B run, so it goes with one run folder.")
    with _own_folder():
        from repro.tracker.replay import publish

        servers = _servers(chosen)
        for folder in folders:
            server = servers(folder)
            print(f"{folder.name}: {server.place}/runs/{publish(folder, server, run_id=chosen.id, limit_s=chosen.limit)}", flush=True)
    return 0


def _pull(chosen: argparse.Namespace) -> int:
    entity, _, project = chosen.place.partition("/")
    if not entity or not project or "/" in project:
        raise UserError(f"{chosen.place}: write ENTITY/PROJECT, as in the address of the project's page.")
    with _own_folder():
        from repro.tracker.pull import pull
        from repro.tracker.server import Server

        left_out = 0
        for outcome in pull(Server(project, entity), Path(chosen.runs)):
            left_out += outcome.state == "left out"
            print(f"{outcome.run_id}: {outcome.state}" + (f" ({outcome.detail})" if outcome.detail else ""), flush=True)
    return 1 if left_out else 0


def _workspace(chosen: argparse.Namespace) -> int:
    if chosen.action == "diff" and not chosen.url:
        raise UserError("diff needs --url: the address that `workspace save` printed.")
    with _own_folder():
        from repro.tracker.server import Server
        from repro.tracker.workspace import difference, panels, save

        server = Server(chosen.project or PROJECT, chosen.entity)
        if chosen.action == "save":
            print(save(server, chosen.url))
            print("\n".join(f"  {line}" for line in panels()))
            return 0
        lines = difference(server, chosen.url)
        print("\n".join(lines) if lines else "the saved workspace is the one of the code")
        return 1 if lines else 0


def _metrics(chosen: argparse.Namespace) -> int:
    from repro.tracker.names import table

    print(table(), end="")
    return 0


def _own_folder() -> tempfile.TemporaryDirectory[str]:
    """Let the client keep its own files in a folder that goes away; what a run's upload writes goes to the run's folder."""
    folder = tempfile.TemporaryDirectory(prefix="repro-tracker-", ignore_cleanup_errors=True)
    isolate(Path(folder.name))
    return folder


def _servers(chosen: argparse.Namespace) -> Callable[[Path], Server]:
    """Return what finds the place of a run on the server: where the arguments say, else where the run's own settings do."""
    from repro.tracker.contents import Contents
    from repro.tracker.server import Server

    known: dict[tuple[str, str | None], Server] = {}

    def server(folder: Path) -> Server:
        own: dict[str, Any] = {}
        with contextlib.suppress(UserError):  # the verb itself names the folder and goes on with the next
            own = Contents(folder).tracker
        place = (chosen.project or str(own.get("project") or PROJECT), chosen.entity or own.get("entity"))
        if place not in known:
            known[place] = Server(*place)
        return known[place]

    return server


def _folders(chosen: argparse.Namespace) -> list[Path]:
    """Return the run folders that the arguments name: run folders themselves, and those in folders of runs."""
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
    sync = verb("sync", _sync, "upload what the server lacks, compare, and only then say synced; may be called again, and from cron")
    sync.add_argument("--limit", type=float, default=300.0, metavar="SECONDS", help="time for one run (default: %(default)g)")
    sync.add_argument("--again", action="store_true", help="ask the server also about runs that the ledger says are complete")
    sync.add_argument("--quiet", action="store_true", help="name only runs that were sent or failed")
    check = verb("verify", _verify, "compare metrics.jsonl with the offline mirror, or with the server, row by row")
    check.add_argument("--online", action="store_true", help="compare with the server")
    publish = verb("publish", _publish, "send the whole of metrics.jsonl as one new, clean W&B run")
    publish.add_argument("--id", help="id of the new W&B run (default: the run's own, or with -2, -3, ... where it is taken)")
    publish.add_argument("--limit", type=float, default=300.0, metavar="SECONDS", help="time for one run (default: %(default)g)")
    pull = verb("pull", _pull, "fetch the finished runs of a project as run folders that tables can read", folders=False, server=False)
    pull.add_argument("place", metavar="ENTITY/PROJECT")
    pull.add_argument("--runs", default=runs, help="where the run folders go (default: %(default)s)")
    workspace = verb("workspace", _workspace, "save the dashboards to a project, or compare a saved view with the code", folders=False)
    workspace.add_argument("action", choices=("save", "diff"))
    workspace.add_argument("--url", help="a saved view: save writes over it, diff compares with it (default of save: a new view)")
    verb("metrics", _metrics, "print the list of all metrics as Markdown, as docs/wandb.md has it", folders=False, server=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
