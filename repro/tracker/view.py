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
from repro.tracker.contents import Contents
from repro.tracker.environment import DATA
from repro.tracker.fragments import Fragment

#: The metrics that are shown at first: all but the series per class, a chart for each of which would bury the others.
SHOWN = "^(train|test|meta|val|label|noise)/"


def view(folders: Sequence[Path], *, metrics: str | None = None) -> int:
    """Show W&B's files in ``folders``, overlaid, until the viewer is left; return its exit code.

    Raises:
        UserError: none of the runs has a mirror.
    """
    with tempfile.TemporaryDirectory(prefix="repro-view-") as place:
        gather(folders, Path(place), metrics=metrics)
        own = {name: str(Path(place) / DATA) for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR")}
        command = [sys.executable, "-m", "wandb", "leet", "run", place]
        return subprocess.run(command, env={**os.environ, **own, "WANDB_ERROR_REPORTING": "false"}, check=False).returncode


def gather(folders: Sequence[Path], place: Path, *, metrics: str | None = None) -> list[str]:
    """Make ``place`` a folder of links to W&B's files in ``folders``, as the viewer expects one, and return their names there.

    The viewer shows some ten letters after the time of the start, so a name begins with what distinguishes runs.

    Raises:
        UserError: none of the runs has a mirror.
    """
    names = []
    for folder in folders:
        for attempt, fragment in enumerate(found := _files(folder), start=1):
            names.append(_link(fragment, _label(Contents(folder)) + (f"-attempt{attempt}" if len(found) > 1 else ""), place))
    if not names:
        raise UserError("none of these runs has a mirror. Train with tracker=offline (the default) to look at runs here.")
    # The viewer keeps its filter and its choice of runs in this file.
    write_json(place / ".wandb-leet.json", {"metrics_filter": {"query": metrics or SHOWN}, "selected_runs": names})
    return names


def _files(folder: Path) -> list[Fragment]:
    """Return the files of all attempts, online ones included: W&B keeps what it sends in the run folder too."""
    files = [Fragment(path) for path in (folder / "wandb").glob("*run-*/run-*.wandb")]
    return sorted((file for file in files if not file.empty()), key=_started)


def _started(fragment: Fragment) -> str:
    """Return when the attempt began, as the name of its folder says: ``20260101_000000``."""
    return fragment.name.partition("run-")[2][: len("20260101_000000")]


def _link(fragment: Fragment, label: str, place: Path) -> str:
    name = f"run-{_started(fragment)}-{label}"
    (place / name).mkdir()
    (place / name / f"run-{label}.wandb").symlink_to(fragment.path.resolve())
    (place / name / "files").symlink_to((fragment.path.parent / "files").resolve())
    return name


def _label(contents: Contents) -> str:
    """Return seed, noise, fold, method, dataset and the end of the run's id, which makes it unique."""
    config = contents.config
    parts = [f"s{config.get('seed')}"]
    if (rate := config["noise"].get("rate")) is not None:
        parts.append(f"n{round(100 * rate)}")
    if (fold := config["split"].get("fold")) is not None:
        parts.append(f"f{fold}")
    return "-".join([*parts, str(config["method"]["name"]), str(config["dataset"]["name"]), contents.run_id[-6:]])
