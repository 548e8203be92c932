"""Tab completion in real shells, through a pseudo-terminal."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro.__main__ import main

READY = "ready>"
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


class Shell:
    """A shell in a pseudo-terminal that has read the completion."""

    def __init__(self, name: str, script: Path) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(script.parent), "PS1": READY, "LC_ALL": "C.UTF-8"}
            os.execvpe(SHELLS[name][0], SHELLS[name], environment)
        self._shown = ""
        # What is typed before the shell listens would be shown twice.
        self.until(READY)
        self.type(f"source {script.name}\n")
        self.until(READY)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def until(self, wanted: str) -> str:
        """Return what is shown from here until ``wanted``."""
        end = time.monotonic() + 30.0
        while wanted not in self._shown:
            assert time.monotonic() < end, (wanted, self._shown)
            if select.select([self._terminal], [], [], 1.0)[0]:
                # Without the bells.
                self._shown += os.read(self._terminal, 65536).decode(errors="replace").replace("\a", "")
        before, _, self._shown = self._shown.partition(wanted)
        return before

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._terminal)


@pytest.fixture(params=SHELLS)
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shell]:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(sys, "argv", ["repro", "--shell-completion", name])
    with pytest.raises(SystemExit, match="0"):
        main()
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "a_file").touch()
    monkeypatch.chdir(tmp_path)
    shell = Shell(name, tmp_path / "completion")
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [
        ("python -m repro meth\t", "method"),
        ("python -m repro method=instance_labels datas\t=fas\t", "labels dataset=fashion_mnist"),
        (".venv/bin/python -m repro optim.learning_\t", "repro optim.learning_rate="),
        ("python -m repro exec.allow_tf32=tr\t", "repro exec.allow_tf32=true"),
        ("python -m repro --shell\t", "--shell-completion"),
        # Elsewhere files are completed, as before.
        ("python a_f\t", "a_file"),
    ],
)
def test_a_tab_completes(shell: Shell, typed: str, wanted: str) -> None:
    shell.type(typed)
    shell.until(wanted)


def test_two_tabs_list_the_choices(shell: Shell) -> None:
    shell.type("python -m repro noise=\t\t")
    shown = shell.until("uniform")
    for name in ("flip", "flip2", "none", "patrini"):
        assert name in shown
