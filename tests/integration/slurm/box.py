"""A real SLURM on this machine for tests: munged, slurmctld and one slurmd with two fake GPUs, on loopback, in a private folder.

It needs no root, no systemd and no cgroups. Several can run at once, each with its own ports.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
CONFIG = """
ClusterName={name}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
MailProg=/bin/true
# A requeued job waits until the credential of its last attempt has expired, two minutes otherwise.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation={folder}/spool/ctld
SlurmdSpoolDir={folder}/spool/d
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
SchedulerParameters=bf_interval=1,batch_sched_delay=0,sched_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=5
MaxArraySize=21
FirstJobId=7
GresTypes=gpu
NodeName=box NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=8 RealMemory=16000 Gres=gpu:fake:2 State=UNKNOWN
PartitionName=main Nodes=box Default=YES MaxTime=1-0 PriorityTier=1
PartitionName=urgent Nodes=box MaxTime=1-0 PriorityTier=10 PreemptMode=OFF
"""


def missing() -> str | None:
    """Say why there can be no box here."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    return f"no {', '.join(absent)} on this machine (Debian: slurm-wlm munge)" if absent else None


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0, what: str = "what was asked for") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what}"
        time.sleep(0.2)


def free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


class Box:
    """A cluster called ``name``."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.config = folder / "etc" / "slurm.conf"
        self._name = name
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._environment = os.environ | {"SLURM_CONF": str(self.config), "PATH": PATH}

    def start(self) -> None:
        for name in ("etc", "run", "munge", "spool/ctld", "spool/d", "dev"):
            (self.folder / name).mkdir(parents=True)
        # munged insists that everybody can reach its socket.
        self.folder.chmod(0o755)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(os.urandom(1024))
        (munge / "key").chmod(0o600)
        port, node_port = free_ports()
        user, host = pwd.getpwuid(os.getuid()).pw_name, socket.gethostname().partition(".")[0]
        places = {"name": self._name, "folder": self.folder, "user": user, "host": host, "port": port, "node_port": node_port}
        self.config.write_text(CONFIG.format(**places))
        (self.folder / "etc" / "gres.conf").write_text(f"AutoDetect=off\nNodeName=box Name=gpu Type=fake File={self._devices()}\n")
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._spawn("munged", "--foreground", *(f"--{option}={munge / name}" for option, name in files.items()))
        wait_until((munge / "socket").exists, what="munged")
        self._spawn("slurmctld", "-D", "-f", str(self.config))
        self._spawn("slurmd", "-D", "-f", str(self.config), "-N", "box")
        wait_until(lambda: "idle" in self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False), what="an idle node")

    def stop(self) -> None:
        with contextlib.suppress(AssertionError):
            self.empty()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            daemon.wait(30)

    def _spawn(self, *command: str) -> None:
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, "env": self._environment}
            self._daemons.append(subprocess.Popen(command, start_new_session=True, **options))  # type: ignore[call-overload]

    def _devices(self) -> str:
        """Return character devices whose names end in a number: SLURM takes them for GPUs."""
        try:
            for number in (0, 1):
                os.mknod(self.folder / "dev" / f"gpu{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            return f"{self.folder}/dev/gpu[0-1]"
        except PermissionError:
            return "/dev/tty[20-21]"

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command of SLURM and return its output."""
        return subprocess.run(command, env=self._environment, check=check, capture_output=True, text=True, timeout=60).stdout

    def jobs(self) -> list[str]:
        """Return the ids of the jobs in the queue."""
        return self.run("squeue", "-h", "-r", "-o", "%i", check=False).split()

    def empty(self) -> None:
        """Cancel everything and wait until it is gone."""
        self.run("scancel", "--me", check=False)
        wait_until(lambda: not self.jobs(), 40, "an empty queue")
