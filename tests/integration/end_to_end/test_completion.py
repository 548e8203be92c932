"""Tab completion in real shells, through a pseudo-terminal."""

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from terminal import Terminal

from repro.__main__ import main

READY = "ready>"
SHELLS = {"bash": ["bash", "--norc", "--noprofile", "-i"], "zsh": ["zsh", "-f", "-i"]}


@pytest.fixture(params=SHELLS)
def shell(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Terminal]:
    name = str(request.param)
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setattr(sys, "argv", ["repro", "--shell-completion", name])
    with pytest.raises(SystemExit, match="0"):
        main()
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "a_file").touch()
    monkeypatch.chdir(tmp_path)
    environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path), "PS1": READY, "LC_ALL": "C.UTF-8"}
    shell = Terminal(SHELLS[name], environment)
    # What is typed before the shell listens would be shown twice.
    shell.until(READY)
    shell.type("source completion\n")
    shell.until(READY)
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
def test_a_tab_completes(shell: Terminal, typed: str, wanted: str) -> None:
    shell.type(typed)
    shell.until(wanted)


def test_two_tabs_list_the_choices(shell: Terminal) -> None:
    shell.type("python -m repro noise=\t\t")
    shown = shell.until("uniform")
    for name in ("flip", "flip2", "none", "patrini"):
        assert name in shown
