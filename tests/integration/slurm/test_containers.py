"""Python behind a wrapper, as in a container, where there are no commands of SLURM; and signals before it listens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lab import Lab, plain

pytestmark = pytest.mark.slurm

#: Notes how it was called, takes its time, and shows no program of the node.
WRAPPER = """#!/bin/sh
echo "$SLURM_JOB_ID $2" >> {notes}
shift 2
sleep 3
PATH=/nowhere
exec "$@"
"""


def test_a_run_in_a_container(lab: Callable[..., Lab], tmp_path: Path) -> None:
    """The signal finds no Python yet and is not heard; the next one saves the run, whose job goes back into the queue and ends there."""
    wrapper, notes = tmp_path / "wrapper", tmp_path / "notes"
    wrapper.write_text(WRAPPER.format(notes=notes))
    wrapper.chmod(0o755)
    trial = lab(plain(1, epochs=20), container=f"[{wrapper}, exec, 'an image.sif']")
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait(notes.exists)
    trial.box.run("scancel", "--signal=USR2", "--full", str(trial.views()[name].job))
    trial.wait(lambda: trial.epoch(name) >= 2)
    trial.box.run("scancel", "--signal=USR2", str(trial.views()[name].job))
    trial.wait(lambda: trial.states()[name] == "queued")
    assert trial.status(name)["state"] == "preempted"
    trial.assert_done(attempts=(2,))
    assert notes.read_text().splitlines() == [f"{trial.views()[name].job} an image.sif"] * 2
