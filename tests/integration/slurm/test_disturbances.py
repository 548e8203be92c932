"""Whatever the cluster does to a running job, its run ends in the bytes of an undisturbed one, or says what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable

import pytest
from box import Box
from lab import Lab, alive, plain

from repro.rundir import read_state

pytestmark = pytest.mark.slurm

MakeLab = Callable[..., Lab]
MakeBox = Callable[..., Box]

#: A job of somebody more important that needs every GPU for a moment.
URGENT = ("sbatch", "-p", "urgent", "-N", "2", "--gres=gpu:2", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 4")

#: Longer than SLURM takes to give a node up and to start its job elsewhere: some 40 seconds.
ORPHAN_EPOCHS = 900


def job_of(trial: Lab, name: str) -> str:
    return str(trial.views()[name].job)


def test_requeue_from_outside(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=20))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    trial.box.run("scontrol", "requeue", job_of(trial, name))
    trial.wait(lambda: trial.states()[name] == "queued")
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))


@pytest.mark.parametrize(
    "settings",
    [{}, {"SlurmctldParameters": "preempt_send_user_signal", "grace": "20"}, {"SlurmctldParameters": "preempt_send_user_signal"}],
)
def test_preemption(lab: MakeLab, make_box: MakeBox, settings: dict[str, str]) -> None:
    """Without a user signal, with one in time, and with one for which there is no time."""
    trial = lab(plain(1, epochs=20), box=make_box(**settings))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    trial.box.run(*URGENT)
    trial.wait(lambda: trial.states()[name] == "queued")
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))


def test_warning_before_the_end_of_the_time(lab: MakeLab) -> None:
    """As SLURM sends it, to every process of the job: the run saves, the job goes back into the queue."""
    trial = lab(plain(1, epochs=20))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    trial.box.run("scancel", "--signal=USR2", job_of(trial, name))
    trial.wait(lambda: trial.states()[name] == "queued")
    assert trial.status(name)["state"] == "preempted"
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))


def test_time_limit(lab: MakeLab) -> None:
    """A limit of one minute, with its warning 30 s before: several jobs in a row, none of which is told to end twice."""
    trial = lab(plain(1, epochs=200), time='{default: "00:01:00"}')
    assert trial.submit() == 0
    trial.wait_until_over(900)
    trial.assert_done(attempts=range(2, 20))
    assert "TIMEOUT" not in trial.box.run("squeue", "-h", "-t", "all", "-o", "%T")


def test_memory(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=3), memory="{default: 200M}")
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_until_over()
    trial.wait(lambda: trial.states()[name] == "failed")
    assert trial.submit() == 0
    assert not trial.box.jobs(), "what failed waits for --retry"
    trial.write_site()
    assert trial.submit("--retry") == 0
    trial.wait_until_over()
    trial.assert_done(attempts=(1, 2))


def test_node_lost_and_back(lab: MakeLab, make_box: MakeBox) -> None:
    trial = lab(plain(1, epochs=20), box=make_box(SlurmdTimeout="5"))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    node = str(trial.status(name)["node"])
    trial.box.kill(node)
    trial.box.kill_steps(node)
    trial.wait(lambda: read_state(trial.runs / name) == "lost")
    trial.wait(lambda: trial.status(name)["attempt"] == 2)
    trial.box.start_node(node)
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))
    trial.wait(lambda: trial.box.nodes() == ["idle", "idle"])


def test_an_orphan_on_a_lost_node_stops_for_its_successor(lab: MakeLab, make_box: MakeBox) -> None:
    """slurmd is gone and its job lives: SLURM starts the run anew elsewhere while the first process still trains it."""
    trial = lab(plain(1, epochs=ORPHAN_EPOCHS), box=make_box(SlurmdTimeout="5"))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 1)
    orphan, node = trial.process(name), str(trial.status(name)["node"])
    trial.box.kill(node)
    trial.wait(lambda: trial.status(name)["attempt"] == 2)
    assert trial.status(name)["node"] != node
    trial.wait(lambda: not alive(orphan), 20)
    assert trial.epoch(name) < ORPHAN_EPOCHS, "it was stopped, it had not ended"
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))
    trial.box.start_node(node)
    trial.wait(lambda: trial.box.nodes() == ["idle", "idle"])


def test_slurmd_restarted(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=12))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 1)
    node = str(trial.status(name)["node"])
    trial.box.kill(node)
    time.sleep(1)
    trial.box.start_node(node)
    trial.wait_until_over()
    trial.assert_done(attempts=(1,))


def test_full_disk(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=25))
    (name,) = trial.ids
    trial.runs.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(trial.runs)], check=False).returncode != 0
    ):
        pytest.skip("a file system of its own for the runs needs the right to mount one")
    try:
        assert trial.submit() == 0
        trial.wait_for_epoch(name, 2)
        ballast = trial.runs / "ballast"
        handle = os.open(ballast, os.O_WRONLY | os.O_CREAT)
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    os.write(handle, b"x" * size)
        os.close(handle)
        trial.wait_until_over()
        trial.wait(lambda: trial.states()[name] in ("failed", "lost"), 30)
        assert "No space left" in (trial.runs / "logs" / f"{name}.log").read_text() or trial.views()[name].why
        ballast.unlink()
        assert trial.submit("--retry") == 0
        trial.wait_until_over()
        trial.assert_done(attempts=(2,))
    finally:
        trial.box.empty()
        subprocess.run(["umount", "-l", str(trial.runs)], check=True)


@pytest.mark.parametrize("accounting", [False, True])
def test_a_job_that_squeue_has_forgotten(lab: MakeLab, make_box: MakeBox, accounting: bool) -> None:
    """sacct knows that it was cancelled. Without it the folder says that the run has saved its state; either way it goes on."""
    trial = lab(plain(1, epochs=20), box=make_box(accounting=accounting, MinJobAge="2"))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 2)
    trial.box.run("scancel", job_of(trial, name))
    trial.wait(lambda: not trial.box.run("squeue", "-h", "-t", "all").strip())
    # Accounting takes its time.
    time.sleep(6 if accounting else 0)
    assert trial.states() == {name: "cancelled" if accounting else "preempted"}
    assert trial.submit() == 0
    trial.wait_until_over()
    trial.assert_done(attempts=(2,))


def test_a_run_that_another_job_trains_is_trained_once(lab: MakeLab) -> None:
    """The same run in the queue twice, as by two ledgers that do not know each other: the second job waits, and finds it done."""
    trial = lab(plain(1, epochs=120))
    (name,) = trial.ids
    assert trial.submit() == 0
    trial.wait_for_epoch(name, 1)
    (text,) = trial.runs.glob("slurm/*/*_submission.sh")
    (pickle,) = trial.runs.glob("slurm/*/*_submitted.pkl")
    second = re.search(r"\d+", trial.box.run("sbatch", str(text)))
    assert second is not None
    shutil.copy(pickle, pickle.with_name(f"{second[0]}_submitted.pkl"))
    trial.wait_until_over()
    trial.assert_done(attempts=(1,))
    second_log = "".join(path.read_text() for path in pickle.parent.glob(f"{second[0]}_0_log.*"))
    assert f"job {second[0]} on" in second_log, second_log
    assert "waiting" in (trial.runs / "logs" / f"{name}.log").read_text()
    assert set(trial.box.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", f"{job_of(trial, name)},{second[0]}").split()) == {"COMPLETED"}
