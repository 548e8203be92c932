"""A signal that SLURM sends to every process of a job stops the run once, and nothing that the run has started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from repro.training.run import _stop_requests

#: A trainer that has started a program and forked a child, and says what became of all of them after two signals.
TRAINER = """
import os, subprocess, time
from repro.command import stop_signals
from slurm.jobs.trainer import _STOP_SIGNALS, _let_one_thread_hear
collecting = stop_signals(_STOP_SIGNALS)
received = collecting.__enter__()
_let_one_thread_hear()
program = subprocess.Popen(["sleep", "600"])
forked = os.fork()
if forked == 0:
    time.sleep(600)
    os._exit(0)
print("ready", flush=True)
while len(received) < 2:
    time.sleep(0.01)
time.sleep(0.2)
print(sorted(map(int, received)), program.poll(), os.waitpid(forked, os.WNOHANG), flush=True)
program.kill()
os.kill(forked, 9)
"""

#: The process of a job, and the trainer that it starts.
JOB = """
import subprocess, sys, time
child = '''
import time
from repro.command import stop_signals
from slurm.jobs.trainer import _STOP_SIGNALS, _end_with_parent, _let_one_thread_hear
collecting = stop_signals(_STOP_SIGNALS)
received = collecting.__enter__()
_let_one_thread_hear()
_end_with_parent()
print("ready", flush=True)
while not received:
    time.sleep(0.01)
print("asked", flush=True)
'''
subprocess.Popen([sys.executable, "-c", child])
time.sleep(600)
"""

#: What takes long to import: it is imported when the test says so.
SLOW_TO_IMPORT = """
import os, time
print("importing", flush=True)
while not os.path.exists(os.environ["GO_ON"]):
    time.sleep(0.01)
print("imported", flush=True)
"""

#: A sweep that is interrupted while the server of its workers is still importing.
PLANNER = """
import sys, time
from sweeps.local.worker import start_server
start_server(["slow_to_import"])
try:
    print("waiting", flush=True)
    time.sleep(600)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_forked_child_does_not_take_a_signal_for_the_run() -> None:
    with _stop_requests() as received:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)
            os.write(writer, bytes([len(received)]))
            os._exit(0)
        os.waitpid(child, 0)
        assert os.read(reader, 1) == b"\0"
        for end in (reader, writer):
            os.close(end)
        os.kill(os.getpid(), signal.SIGTERM)
        assert received == [signal.SIGTERM]


def test_what_a_trainer_starts_ignores_the_signals() -> None:
    command = [sys.executable, "-c", TRAINER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGUSR2, signal.SIGTERM):
            os.killpg(process.pid, number)
        expected = sorted([int(signal.SIGUSR2), int(signal.SIGTERM)])
        assert process.stdout.readline() == f"{expected} None (0, 0)\n"


def test_a_trainer_leaves_with_its_job() -> None:
    """When the job's own process is killed alone, its runs save and leave."""
    with subprocess.Popen([sys.executable, "-c", JOB], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.readline() == "asked\n"


def test_ctrl_c_does_not_reach_the_server_of_the_workers(tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "GO_ON": str(tmp_path / "go_on")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", PLANNER], **pipes, text=True, start_new_session=True, env=environment) as process:
        assert {process.stdout.readline() for _ in range(2)} == {"importing\n", "waiting\n"}
        os.killpg(process.pid, signal.SIGINT)
        (tmp_path / "go_on").touch()
        assert process.communicate(timeout=300) == ("imported\n", "")
        assert process.returncode == 130
