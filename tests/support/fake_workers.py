"""Workers that behave as they are told and train nothing; they write the states of real runs."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from repro.files import try_read, write_json
from repro.runs.manifest import write_manifest
from repro.runs.state import now


def finish(folder: Path) -> None:
    """Make ``folder`` that of a finished run."""
    folder.mkdir(exist_ok=True)
    write_manifest(folder, {})
    write_json(folder / "status.json", {"state": "done"})


def begin(folder: Path) -> None:
    """Make ``folder`` that of a run which this process is training."""
    folder.mkdir(exist_ok=True)
    here = {"host": os.uname().nodename, "pid": os.getpid()}
    write_json(folder / "status.json", {"state": "running", "heartbeat": now(), "heartbeat_s": 60.0, "epoch": 1, **here})


def behave(overrides: Sequence[str]) -> int:
    """Do what the override ``behave`` says: done, fail, quit (without a folder), mute (and without a word), die; wait (after Ctrl-C for
    its planner, until it is stopped) and deaf (until it is killed) the first time only; an id: finish the run of that id, then itself.
    """
    given = dict(override.split("=", 1) for override in overrides)
    runs, what, planner = Path(given["paths.runs"].strip('"')), given["behave"], int(given["planner"])
    folder = runs / given["name"]
    first = not folder.exists()
    with (runs / "calls.txt").open("a") as calls:
        calls.write(" ".join(overrides) + "\n")
    if what in ("quit", "mute"):
        print("error: the file is not there" if what == "quit" else "", file=sys.stderr)
        return 2
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    begin(folder)
    if what == "die" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "fail":
        write_json(folder / "status.json", {"state": "failed", "error": "as it was told"})
        return 1
    if what in ("wait", "deaf") and first:
        os.kill(planner, signal.SIGINT)
        while not asked:
            time.sleep(0.01)
        if what == "deaf":
            os.kill(planner, signal.SIGINT)
            signal.pause()
        write_json(folder / "status.json", {"state": "preempted"})
        return 128 + asked[0]
    if try_read(runs / what / "status.json", "state"):
        finish(runs / what)
    finish(folder)
    return 0
