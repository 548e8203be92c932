"""Workers that behave as they are told and train nothing. Each takes the real lock and writes the real states."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from repro.runs.lease import Superseded, claim

from repro.errors import EXIT_USER_ERROR, UserError
from repro.runs.folder import FinishedError, RunFolder
from repro.runs.state import read_state

#: What workers do that wait, and the file that those of ``while`` wait for.
WAITING = ("slow", "while", "deaf")
GO_ON = "go_on.txt"


def go_on(runs: Path) -> None:
    """Let the workers that behave as ``while`` end."""
    (runs / GO_ON).touch()


def behave(overrides: Sequence[str]) -> int:
    """Do what the override ``behave=...`` says: done, fail, die (the first time),
    quit (a user's mistake without a folder), while (the first time, until the test says :func:`go_on`), slow (until it is stopped),
    deaf (until it is killed, the first time), taken (over by another process, the first time).

    A run that is done cost an hour of its GPU. As a real run, it refuses to begin when one of its inputs is not done.
    """
    settings = dict(override.split("=", 1) for override in overrides)
    runs = Path(settings["paths.runs"].strip("'"))
    folder = runs / settings["name"]
    what = settings["behave"]
    with (runs / "calls.txt").open("a") as calls:
        calls.write(f"{settings['name']} {settings['exec.threads']} {os.getpid()} {os.getpgrp()}\n")
    if what == "quit":
        print("error: the file is not there", file=sys.stderr)
        return EXIT_USER_ERROR
    if read_state(folder) == "done":
        return 0
    for name in filter(None, settings.get("inputs.labels", "[]")[1:-1].split(",")):
        if (found := read_state(runs / name)) != "done":
            print(f"error: input {name} is {found}, not done.", file=sys.stderr)
            return EXIT_USER_ERROR
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        with RunFolder(folder).hold(heartbeat_s=0.5, epochs=2) as held:
            held.write_json("provenance.json", {"threads": int(settings["exec.threads"])})
            if what == "fail":
                held.end("failed", error="ValueError: as it was told")
                raise ValueError("as it was told")
            if what == "taken" and held.status.attempt == 1:
                claim(folder)
                held.check_lease()
            if what == "die" and held.status.attempt == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            held.open_metrics([])
            held.append_metrics({"epoch": 0, "test/accuracy": 0.125})
            while what in WAITING and held.status.attempt == 1 and not (what == "while" and (runs / GO_ON).exists()):
                time.sleep(0.02)
                if received and what != "deaf":
                    break
            for step in range(10):
                if step == 5:
                    held.append_metrics({"epoch": 1, "test/accuracy": 0.125})
                time.sleep(0.02)
                if received and what != "deaf":
                    # Saving takes a moment, in which nobody may lose patience.
                    time.sleep(0.5)
                    held.end("preempted", error=f"stopped by {received}")
                    return 128 + received[0]
            held.add_cost(wall_s=3600.0, on_gpu=True, peak_gib=0.0)
            held.end("done")
    except FinishedError:
        return 0
    except Superseded as stop:
        return stop.exit_code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    return 0
