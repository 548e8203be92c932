"""A real SLURM on this machine for tests: munged, slurmctld, two slurmd with two fake GPUs each, on loopback, in a private folder.

It needs no root, no systemd and no cgroups. Several can run at once, each with its own ports. With ``accounting`` there is a slurmdbd and
its MariaDB too.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "srun")
ACCOUNTING = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin")
NODES = ("box1", "box2")
GPUS = 2
#: The type of the GPUs of each node.
TYPES = {"box1": "fake", "box2": "3090"}


def missing(*, accounting: bool = False) -> str | None:
    """Say why there can be no box here."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    absent = [name for name in PROGRAMS + (ACCOUNTING if accounting else ()) if shutil.which(name, path=path) is None]
    packages = "slurm-wlm munge" + (" slurmdbd slurm-wlm-mysql-plugin mariadb-server" if accounting else "")
    return f"no {', '.join(absent)} on this machine (Debian: {packages})" if absent else None


def free_ports(count: int) -> int:
    """Return the first of ``count`` free ports in a row, below those that Linux gives to connections."""
    for base in range(21000 + os.getpid() % 300 * 20, 32700, 20):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return base
    raise AssertionError("no free ports")


def wait_until(condition: Callable[[], object], timeout_s: float = 60.0, what: str = "") -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for {what or condition}"
        time.sleep(0.1)


class Box:
    """The cluster. ``settings`` are lines of slurm.conf that replace ours of the same name."""

    def __init__(self, folder: Path, *, accounting: bool = False, settings: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.accounting = accounting
        self._port = free_ports(len(NODES) + 10)
        self._settings = settings or {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = os.environ | {
            "SLURM_CONF": str(self.config),
            "PATH": os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]),
        }

    @property
    def user(self) -> str:
        return pwd.getpwuid(os.getuid()).pw_name

    @property
    def config(self) -> Path:
        return self.folder / "etc" / "slurm.conf"

    # -- life ------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        for name in ("etc", "log", "run", "munge", "spool/ctld", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        # munged insists that everybody can reach its socket, and that nobody else can write above it.
        for path in (self.folder / "munge", self.folder, *self.folder.parents):
            if path.stat().st_uid == os.getuid() and path != Path("/") and not path.stat().st_mode & stat.S_ISVTX:
                path.chmod((path.stat().st_mode | 0o755) & ~0o022)
        key = self.folder / "munge" / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        self._write_config()
        munge = self.folder / "munge"
        places = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self._spawn("munged", ["munged", "--foreground", *(f"--{option}={munge / name}" for option, name in places.items())])
        self._wait_for("munge", "-S", str(munge / "socket"), "-n")
        if self.accounting:
            self._start_accounting()
        self.start_controller()
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.nodes() == ["idle"] * len(NODES), 60, "nodes")

    def stop(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError, subprocess.TimeoutExpired):
            self.empty()
        for name in reversed(list(self._processes)):
            self.kill(name, signal.SIGTERM)

    def _spawn(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self._environment, start_new_session=True
            )

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End one daemon; the steps of a slurmd live on."""
        process = self._processes.pop(name)
        process.send_signal(number)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)

    def start_controller(self) -> None:
        self._spawn("slurmctld", ["slurmctld", "-D", "-f", str(self.config)])
        wait_until(lambda: "is UP" in self.run("scontrol", "ping", check=False), 30, "slurmctld")

    def start_node(self, node: str) -> None:
        self._spawn(node, ["slurmd", "-D", "-f", str(self.config), "-N", node])

    def kill_steps(self, node: str) -> None:
        """End every process that a slurmd of this node has left behind, as a power cut would: none has time to report another's end."""
        marks = (f"SLURMD_NODENAME={node}\0".encode(), str(self.folder).encode())
        steps, processes = set(), set()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                content = (path / "environ").read_bytes()
                if all(mark in content for mark in marks):
                    processes.add(int(path.name))
                    parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                        steps.add(parent)
        for process in (*steps, *processes):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    # -- configuration ---------------------------------------------------------------------------------------------------------

    def _write_config(self) -> None:
        folder, port, user, host = self.folder, self._port, self.user, socket.gethostname().partition(".")[0]
        lines = {
            "ClusterName": "box",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": port,
            "SlurmUser": user,
            "SlurmdUser": user,
            "MailProg": "/bin/true",
            # A requeued job waits until the credential of its last attempt has expired, two minutes otherwise.
            "AuthInfo": f"socket={folder}/munge/socket,cred_expire=5",
            # No SrunPortRange: both nodes are one machine, and in a short range a restarted job's srun soon has a port of the one before,
            # to which an orphan still reports its end; SLURM then takes that for the end of the restarted job.
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "StateSaveLocation": f"{folder}/spool/ctld",
            "SlurmdSpoolDir": f"{folder}/spool/%n",
            "SlurmctldPidFile": f"{folder}/run/slurmctld.pid",
            "SlurmdPidFile": f"{folder}/run/%n.pid",
            "SlurmctldLogFile": f"{folder}/log/slurmctld.log",
            "SlurmdLogFile": f"{folder}/log/%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/linux",
            "JobAcctGatherFrequency": "task=1",
            "JobAcctGatherParams": "OverMemoryKill",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU_Memory",
            "SlurmdParameters": "config_overrides",
            "SchedulerParameters": "bf_interval=1,batch_sched_delay=0,sched_interval=1",
            "PriorityType": "priority/basic",
            "PreemptType": "preempt/partition_prio",
            "PreemptMode": "REQUEUE",
            "ReturnToService": 2,
            "SlurmctldTimeout": 10,
            "SlurmdTimeout": 10,
            "KillWait": 5,
            "TCPTimeout": 5,
            "GresTypes": "gpu",
        }
        if self.accounting:
            lines |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": port + 3,
                "AccountingStoragePass": f"{folder}/munge/socket",
            }
        settings = lines | self._settings
        grace = settings.pop("grace", "0")
        text = [f"{key}={value}" for key, value in settings.items()]
        for index, node in enumerate(NODES):
            text.append(
                f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port + 10 + index} "
                f"CPUs=8 RealMemory=16000 Gres=gpu:{TYPES[node]}:{GPUS} State=UNKNOWN"
            )
        main = f"PartitionName=main Nodes={','.join(NODES)} Default=YES MaxTime=1-0 PriorityTier=1"
        text.append(f"{main} PreemptMode=REQUEUE GraceTime={grace}")
        text.append(f"PartitionName=urgent Nodes={','.join(NODES)} MaxTime=1-0 PriorityTier=10 PreemptMode=OFF")
        self.config.write_text("\n".join(text) + "\n")
        devices = ["AutoDetect=off"]
        devices += [f"NodeName={node} Name=gpu Type={TYPES[node]} File={self._devices(index)}" for index, node in enumerate(NODES)]
        (self.folder / "etc" / "gres.conf").write_text("\n".join(devices) + "\n")

    def _devices(self, index: int) -> str:
        """Return character devices whose names end in a number: SLURM takes them for GPUs."""
        stem = self.folder / "dev" / NODES[index] / "gpu"
        stem.parent.mkdir(parents=True, exist_ok=True)
        try:
            for number in range(GPUS):
                os.mknod(f"{stem}{number}", stat.S_IFCHR | 0o666, os.makedev(1, 3))
            return f"{stem}[0-{GPUS - 1}]"
        except PermissionError:
            return f"/dev/tty[{20 + index * GPUS}-{20 + index * GPUS + GPUS - 1}]"

    def _start_accounting(self) -> None:
        folder, port, user = self.folder, self._port, self.user
        text = {
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={folder}/munge/socket",
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": port + 3,
            "SlurmUser": user,
            "CommunicationParameters": "NoInAddrAny",
            "LogFile": f"{folder}/log/slurmdbd.log",
            "PidFile": f"{folder}/run/slurmdbd.pid",
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "127.0.0.1",
            "StoragePort": port + 4,
            "StorageUser": "slurm",
            "StoragePass": "slurm",
            "StorageLoc": "slurm_acct",
        }
        config = folder / "etc" / "slurmdbd.conf"
        config.write_text("\n".join(f"{key}={value}" for key, value in text.items()) + "\n")
        config.chmod(0o600)
        data, sock = folder / "mysql", folder / "run" / "mysql.sock"
        admin = ["--no-defaults", "-u", user, f"--socket={sock}"]
        owner = ["--auth-root-authentication-method=socket", f"--auth-root-socket-user={user}", "--skip-test-db"]
        self.run("mariadb-install-db", "--no-defaults", f"--user={user}", f"--datadir={data}", *owner)
        server = [f"--socket={sock}", f"--port={port + 4}", "--bind-address=127.0.0.1", "--skip-log-bin", "--innodb-buffer-pool-size=64M"]
        self._spawn("mariadbd", ["mariadbd", "--no-defaults", f"--user={user}", f"--datadir={data}", *server])
        self._wait_for("mariadb-admin", *admin, "ping")
        grants = [f"grant all on slurm_acct.* to 'slurm'@'{host}' identified by 'slurm'" for host in ("127.0.0.1", "localhost")]
        self.run("mariadb", *admin, "-e", "; ".join(["create database slurm_acct", *grants]))
        self._spawn("slurmdbd", ["slurmdbd", "-D"])
        self._wait_for("sacctmgr", "-n", "-i", "list", "cluster")
        self.run("sacctmgr", "-i", "add", "cluster", "box")

    # -- use -------------------------------------------------------------------------------------------------------------------

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command of SLURM and return its output."""
        return subprocess.run(command, env=self._environment, check=check, capture_output=True, text=True, timeout=60).stdout

    def _wait_for(self, *command: str) -> None:
        """Wait until a command succeeds."""
        wait_until(lambda: subprocess.run(command, env=self._environment, check=False, capture_output=True).returncode == 0, 60, command[0])

    def nodes(self) -> list[str]:
        return self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%T", check=False).split()

    def jobs(self) -> list[str]:
        """Return the ids of the jobs in the queue."""
        return self.run("squeue", "-h", "-r", "-o", "%i", check=False).split()

    def empty(self) -> None:
        """Cancel everything and wait until it is gone."""
        self.run("scancel", "--me", check=False)
        wait_until(lambda: not self.jobs(), 40, "an empty queue")
