"""Runs on a file system that refuses every lock, as the C library of a process of its own says it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from real_runs import read_metrics

from repro.config.compose import compose
from repro.errors import EXIT_USER_ERROR
from repro.runs.state import read_state
from repro.training.run import execute

#: Loaded before the C library: flock, and the locks of fcntl, fail as on NFS without its lock service.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>

int flock(int file, int operation) { errno = ENOLCK; return -1; }

static int locks(int command) {
    return command == F_SETLK || command == F_SETLKW || command == F_GETLK || command == F_OFD_SETLK || command == F_OFD_SETLKW;
}

#define WRAP(name) \
    int name(int file, int command, ...) { \
        static int (*real)(int, int, void *); \
        va_list more; \
        va_start(more, command); \
        void *argument = va_arg(more, void *); \
        va_end(more); \
        if (locks(command)) { errno = ENOLCK; return -1; } \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        return real(file, command, argument); \
    }
WRAP(fcntl)
WRAP(fcntl64)
"""

#: A run that waits after its third row until it is ended.
WAITING = """
import sys, time
from repro.config.compose import compose
from repro.training.monitor import Monitor
from repro.training.run import execute
evaluated = Monitor.evaluated
def wait(self, row):
    evaluated(self, row)
    while len(self.rows) == 3 and not self._requests:
        time.sleep(0.01)
Monitor.evaluated = wait
execute(compose(sys.argv[1:]))
"""

RESULTS = ("final.json", "model.safetensors", "labels/layout.json", "labels/indices.i64", "labels/instances.f16")


@pytest.fixture(scope="module")
def without_locks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that get no lock."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("needs Linux and a C compiler (gcc)")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"], cwd=folder, check=True)
    environment = os.environ | {"LD_PRELOAD": str(folder / "shim.so")}
    refused = "import fcntl\ntry:\n    fcntl.flock(open('x', 'w'), fcntl.LOCK_EX)\nexcept OSError as error:\n    print(error.errno)"
    said = subprocess.run([sys.executable, "-c", refused], cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout
    assert said == "37\n"
    return environment


def settings(runs: Path) -> list[str]:
    return [
        *("method=instance_labels", "dataset=digits", "seed=0", "noise=uniform", "noise.rate=0.4", "model.width=4"),
        *("method.learning_rate=500", "optim.epochs=4", "tracker=none", "exec.threads=1", "exec.device=cpu"),
        *("exec.checkpoint_interval_s=0", f"paths.runs={runs}"),
    ]


def test_a_run_is_trained_once_and_to_the_same_bytes(tmp_path: Path, without_locks: dict[str, str]) -> None:
    whole = execute(compose(settings(tmp_path / "whole")))
    arguments = settings(tmp_path / "runs")
    folder = tmp_path / "runs" / whole.name

    def start() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "repro", *arguments], env=without_locks, capture_output=True, text=True, check=False)

    with subprocess.Popen([sys.executable, "-c", WAITING, *arguments], env=without_locks, stderr=subprocess.PIPE, text=True) as first:
        while len(read_metrics(folder)) < 3:
            assert first.poll() is None, first.communicate()[1]
            time.sleep(0.01)
        second = start()
        assert second.returncode == EXIT_USER_ERROR
        assert "another process is training this run" in second.stderr
        assert len(read_metrics(folder)) == 3
        first.kill()
        assert first.wait() == -signal.SIGKILL
        assert first.stderr.read().count("this file system has no locks (No locks available)") == 1
    assert read_state(folder) == "lost"
    assert (folder / ".lock.holder").exists()

    third = start()
    assert third.returncode == 0, third.stderr
    assert read_state(folder) == "done"
    assert [row["epoch"] for row in read_metrics(folder)] == list(range(5))
    for name in RESULTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert not [path.name for path in folder.iterdir() if "holder" in path.name]
