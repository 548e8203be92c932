"""Charts of runs in the terminal, with W&B's own viewer: no server, no account, and nothing of the run folders is changed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from repro.errors import UserError
from repro.files import write_json
from repro.tracker.client import WandbTracker, open_run
from repro.tracker.contents import Contents

#: The metrics that are shown at first. The viewer sorts them by name, and the first page of a small terminal has room for two.
SHOWN = "^(noise/label_error$|test/|train/|val/)"

#: A W&B file of at most so many bytes has a header only.
_HEADER_BYTES = 7


def view(folders: Sequence[Path], *, metrics: str | None = None) -> int:
    """Show the runs in ``folders``, overlaid, until the viewer is left; return its exit code.

    Raises:
        UserError: none of the runs has a row.
    """
    with tempfile.TemporaryDirectory(prefix="repro-view-", ignore_cleanup_errors=True) as place:
        gather(folders, Path(place), metrics=metrics)
        command = [sys.executable, "-m", "wandb", "leet", "run", place]
        return subprocess.run(command, env={**os.environ, "WANDB_CONFIG_DIR": place}, check=False).returncode


def gather(folders: Sequence[Path], place: Path, *, metrics: str | None = None) -> list[str]:
    """Make ``place`` a folder of links to W&B's files of the runs, as the viewer expects one, and return their names there.

    The file of an offline attempt has the whole run, and grows while the run is under way. Where the last attempt was not offline, a file
    is made of ``metrics.jsonl``.

    Raises:
        UserError: none of the runs has a row.
    """
    names = []
    for folder in folders:
        contents = Contents(folder)
        if contents.rows():
            names.append(_link(_offline_file(contents) or _make_file(contents, place / "made" / folder.name), contents, place))
    if not names:
        raise UserError("none of these runs has a row yet. Wait for the first epoch of a run, or name other run folders.")
    # The viewer keeps its filter and its choice of runs in this file.
    write_json(place / ".wandb-leet.json", {"metrics_filter": {"query": metrics or SHOWN}, "selected_runs": names})
    return names


def _offline_file(contents: Contents) -> Path | None:
    if contents.tracker.get("name") == "none":
        return None
    files = [path for path in (contents.folder / "wandb").glob("*run-*/run-*.wandb") if path.stat().st_size > _HEADER_BYTES]
    # An online start that failed leaves a file too, and the offline one after it may begin in the same second.
    last = max(files, key=lambda path: (_started(path), path.parent.name.startswith("offline")), default=None)
    return last if last is not None and last.parent.name.startswith("offline") else None


def _make_file(contents: Contents, directory: Path) -> Path:
    directory.mkdir(parents=True)
    run = open_run(contents, mode="offline", project="view", entity=None, run_id=contents.run_id, directory=directory)
    tracker = WandbTracker(run, contents, -1)
    for row in contents.rows():
        tracker.log(row)
    tracker.end(0, preempted=False)
    (made,) = (directory / "wandb").glob("offline-run-*/run-*.wandb")
    return made


def _started(file: Path) -> str:
    """Return when the attempt began, as the name of its folder says: ``20260101_000000``."""
    return file.parent.name.partition("run-")[2][: len("20260101_000000")]


def _link(file: Path, contents: Contents, place: Path) -> str:
    """Link to a file under a name that begins with what distinguishes runs: the viewer shows ten letters after the time of the start."""
    config = contents.config
    parts = [f"s{config.get('seed')}"]
    if (rate := config["noise"].get("rate")) is not None:
        parts.append(f"n{round(100 * rate)}")
    if (fold := config["split"].get("fold")) is not None:
        parts.append(f"f{fold}")
    # The end of the run's id makes it unique.
    label = "-".join([*parts, str(config["method"]["name"]), str(config["dataset"]["name"]), contents.run_id[-6:]])
    name = f"run-{_started(file)}-{label}"
    (place / name).mkdir()
    (place / name / f"run-{label}.wandb").symlink_to(file.resolve())
    (place / name / "files").symlink_to((file.parent / "files").resolve())
    return name
