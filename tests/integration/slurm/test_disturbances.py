"""Whatever the cluster does to a running job, its run ends in the bytes of an undisturbed one, or says what is wrong with it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from box import Box, wait_until
from lab import Lab, alive, plain

from repro.files import read_json
from repro.runs.state import read_state

pytestmark = pytest.mark.slurm

MakeLab = Callable[..., Lab]
MakeBox = Callable[..., Box]

#: A job of somebody more important that needs every GPU for a moment.
URGENT = ["sbatch", "-p", "urgent", "-N", "2", "--gres=gpu:2", "--mem=100", "-o", "/dev/null", "--wrap", "sleep 4"]


def job_of(trial: Lab, name: str) -> str:
    return str(trial.views()[name].job)


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        (["scontrol", "requeue", "JOB"], {}),
        # The warning before the end of the time, as SLURM sends it to every process of the job.
        (["scancel", "--signal=USR2", "JOB"], {}),
        # Preemption: without a user signal, with one in time, and with one for which there is no time.
        (URGENT, {}),
        (URGENT, {"SlurmctldParameters": "preempt_send_user_signal", "grace": "20"}),
        (URGENT, {"SlurmctldParameters": "preempt_send_user_signal"}),
    ],
)
def test_back_into_the_queue(lab: MakeLab, make_box: MakeBox, command: list[str], settings: dict[str, str]) -> None:
    trial = lab(plain(1, epochs=20), box=make_box(**settings))
    (name,) = trial.begun(epoch=2)
    trial.box.run(*(job_of(trial, name) if word == "JOB" else word for word in command))
    trial.wait(lambda: trial.states()[name] == "queued")
    if "--signal=USR2" in command:
        assert trial.status(name)["state"] == "preempted"
    trial.assert_done(attempts=(2,))


def warned(pid: int) -> bool:
    """Whether a suspended process will find the warning when it goes on, or has found it: SLURM may wake it."""
    try:
        pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except FileNotFoundError:
        return True
    return pending is not None and bool(int(pending[1], 16) >> (signal.SIGUSR2 - 1) & 1)


def test_time_limit(lab: MakeLab) -> None:
    """A limit of one minute, with its warning 30 s before: two jobs in a row reach it, neither of which is told to end twice.

    Their processes are suspended until they have been warned, so that no processor is too fast for it.
    """
    trial = lab(plain(1, epochs=60), time='{default: "00:01:00"}')
    (name,) = trial.begun(epoch=1)
    for attempt in (1, 2):
        wait_until(lambda number=attempt: trial.status(name)["attempt"] == number, 120.0, f"attempt {attempt}")
        process = trial.process(name)
        os.kill(process, signal.SIGSTOP)
        wait_until(lambda suspended=process: warned(suspended), 60.0, f"the warning of attempt {attempt}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)
    trial.assert_done(attempts=(3,))
    assert "TIMEOUT" not in trial.box.run("squeue", "-h", "-t", "all", "-o", "%T")


def test_memory(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=3), memory="{default: 200M}")
    (name,) = trial.begun()
    trial.wait_until_over()
    trial.wait(lambda: trial.states()[name] == "failed")
    assert trial.submit() == 0
    assert not trial.box.jobs(), "what failed waits for --retry"
    trial.write_site()
    assert trial.submit("--retry") == 0
    trial.assert_done(attempts=(1, 2))


def test_node_lost_and_back(lab: MakeLab, make_box: MakeBox) -> None:
    trial = lab(plain(1, epochs=20), box=make_box(SlurmdTimeout="5"))
    (name,) = trial.begun(epoch=2)
    node = str(trial.status(name)["node"])
    trial.box.kill(node)
    trial.box.kill_steps(node)
    trial.wait(lambda: read_state(trial.runs / name) == "lost")
    trial.wait(lambda: trial.status(name)["attempt"] == 2)
    trial.box.start_node(node)
    trial.assert_done(attempts=(2,))
    trial.wait(lambda: trial.box.nodes() == ["idle", "idle"])


def test_an_orphan_on_a_lost_node_stops_for_its_successor(lab: MakeLab, make_box: MakeBox) -> None:
    """slurmd is gone and its job lives: SLURM starts the run anew elsewhere, and then the first process goes on with its training.

    SLURM takes some 40 seconds to give the node up. The first process is suspended for so long, so the run need not be that long.
    """
    trial = lab(plain(1, epochs=20), box=make_box(SlurmdTimeout="5"))
    (name,) = trial.begun(epoch=1)
    orphan, node = trial.process(name), str(trial.status(name)["node"])
    lease = trial.runs / name / "lease.json"
    os.kill(orphan, signal.SIGSTOP)
    before, epoch = read_json(lease), trial.epoch(name)
    trial.box.kill(node)
    trial.wait(lambda: read_json(lease) != before)
    assert (trial.status(name)["attempt"], trial.epoch(name)) == (1, epoch), "the successor waits for it"
    os.kill(orphan, signal.SIGCONT)
    trial.wait(lambda: not alive(orphan), 20)
    trial.assert_done(attempts=(2,))
    assert trial.status(name)["node"] != node


def test_slurmd_restarted(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=12))
    (name,) = trial.begun(epoch=1)
    node = str(trial.status(name)["node"])
    trial.box.kill(node)
    time.sleep(1)
    trial.box.start_node(node)
    trial.assert_done()


def test_full_disk(lab: MakeLab) -> None:
    trial = lab(plain(1, epochs=25))
    trial.runs.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(trial.runs)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("a file system of its own for the runs needs the right to mount one")
    try:
        (name,) = trial.begun(epoch=2)
        ballast = trial.runs / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        trial.wait_until_over()
        trial.wait(lambda: trial.states()[name] in ("failed", "lost"), 30)
        assert "No space left" in (trial.runs / "logs" / f"{name}.log").read_text() or trial.views()[name].why
        ballast.unlink()
        assert trial.submit("--retry") == 0
        trial.assert_done(attempts=(2,))
    finally:
        trial.box.empty()
        subprocess.run(["umount", "-l", str(trial.runs)], check=True)


@pytest.mark.parametrize("accounting", [False, True])
def test_a_job_that_squeue_has_forgotten(lab: MakeLab, make_box: MakeBox, accounting: bool) -> None:
    """sacct knows that it was cancelled. Without it the folder says that the run has saved its state; either way it goes on."""
    trial = lab(plain(1, epochs=20), box=make_box(accounting=accounting, MinJobAge="2"))
    (name,) = trial.begun(epoch=2)
    trial.box.run("scancel", job_of(trial, name))
    trial.wait(lambda: not trial.box.run("squeue", "-h", "-t", "all").strip())
    # Accounting takes its time.
    time.sleep(6 if accounting else 0)
    assert trial.states() == {name: "cancelled" if accounting else "preempted"}
    assert trial.submit() == 0
    trial.assert_done(attempts=(2,))


def test_a_run_that_another_job_trains_is_trained_once(lab: MakeLab) -> None:
    """The same run in the queue twice, as by two ledgers that do not know each other: the second job waits, and finds it done."""
    trial = lab(plain(1, epochs=120))
    (name,) = trial.begun(epoch=1)
    (text,) = trial.runs.glob("slurm/*/*_submission.sh")
    (pickle,) = trial.runs.glob("slurm/*/*_submitted.pkl")
    second = re.search(r"\d+", trial.box.run("sbatch", str(text)))
    assert second is not None
    shutil.copy(pickle, pickle.with_name(f"{second[0]}_submitted.pkl"))
    trial.assert_done()
    second_log = "".join(path.read_text() for path in pickle.parent.glob(f"{second[0]}_0_log.*"))
    assert f"job {second[0]} on" in second_log, second_log
    assert "waiting" in (trial.runs / "logs" / f"{name}.log").read_text()
    assert set(trial.box.run("squeue", "-h", "-t", "all", "-o", "%T", "-j", f"{job_of(trial, name)},{second[0]}").split()) == {"COMPLETED"}
