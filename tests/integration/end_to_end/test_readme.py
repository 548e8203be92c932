"""The commands of the README are real ones: each is run, at a small size where training is involved."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from repro.config import registry

ROOT = Path(__file__).resolve().parents[3]
README = (ROOT / "README.md").read_text()
COMMANDS = [line.split("  #")[0].strip() for line in README.splitlines() if line.startswith("    ")]


def run(command: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    words = shlex.split(command)
    environment = {**os.environ, "REPRO_RUNS": str(tmp_path / "runs"), "REPRO_DATA": str(tmp_path / "data")}
    return subprocess.run(
        [sys.executable, *words[1:]], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.parametrize("group", ["dataset", "model", "noise"])
def test_every_choice_is_in_the_table_of_choices(group: str) -> None:
    (line,) = re.findall(rf"^\| `{group}` \|.*$", README, re.MULTILINE)
    assert [name for name in registry.choices(group) if f"`{name}`" not in line] == []


def test_every_method_is_in_the_table_of_methods_with_its_page_and_a_paper() -> None:
    rows = README.partition("| `method` | from |\n")[2].partition("\n\n")[0].splitlines()[1:]
    listed = [name for row in rows for name in re.findall(r"\[`(\w+)`\]\(docs/methods/\1\.md\)", row)]
    assert sorted(listed) == sorted(registry.choices("method"))
    assert [row for row in rows if "](https://" not in row] == []


def test_length() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m repro ") and "..." not in c])
def test_training_commands(command: str, tmp_path: Path) -> None:
    if "cifar" in command:
        result = run(command, tmp_path)
        assert result.returncode == 2
        assert "python -m repro.data download cifar100" in result.stderr
        return
    flags = "" if "--help" in command or "--cfg" in command else " optim.epochs=1 tracker=none exec.threads=1"
    result = run(command + flags, tmp_path)
    assert result.returncode == 0, result.stderr


def is_quick(command: str) -> bool:
    return command.startswith(("python -m sweeps", "python -m analysis")) and command.split()[3] not in ("run", "tune")


@pytest.mark.parametrize("command", [c for c in COMMANDS if is_quick(c)])
def test_other_commands(command: str, tmp_path: Path) -> None:
    assert run("python -m sweeps plan demo demo_curves", tmp_path).returncode == 0
    result = run(command, tmp_path)
    assert result.returncode == 0, result.stderr
    if "tables" in command:
        assert "0 of 48 are done" in result.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("python -m sweeps") and not is_quick(c)])
def test_commands_that_train_name_what_can_be_planned(command: str, tmp_path: Path) -> None:
    planned = command.replace("sweeps run", "sweeps plan").replace("sweeps tune", "sweeps plan").replace(" --jobs 2", "")
    result = run(planned, tmp_path)
    assert result.returncode == 0, result.stderr


def test_the_plan_is_as_large_as_it_says(tmp_path: Path) -> None:
    said = re.search(r"python -m sweeps plan table1 table2 +# (\d+) runs in two stages, (\d+) of them shared", README)
    shown = run("python -m sweeps plan table1 table2", tmp_path).stdout
    assert f"together: {said[1]} runs, {said[2]} of them shared" in shown
    assert re.search(r"^stage 1: \d+ runs, stage 2: \d+ runs$", shown, re.MULTILINE)


def test_the_demo_table_is_the_generated_one() -> None:
    shown = README.partition("<!-- demo table: begin -->\n")[2].partition("<!-- demo table: end -->")[0]
    generated = (ROOT / "paper_tables/demo/demo.md").read_text()
    assert shown
    assert shown == "".join(line for line in generated.splitlines(keepends=True) if line.startswith("|"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    target = command.split()[1]
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_setup_says_what_it_does() -> None:
    """Gigabytes are downloaded: a line before them, and pip's own progress."""
    command = ["make", "--no-print-directory", "--dry-run", "--always-make", "setup"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert told.startswith("echo ")
    assert "pip install" in told
    assert "quiet" not in told


@pytest.mark.parametrize("code", [0, 3])
def test_setup_is_not_silent_while_pip_is(tmp_path: Path, code: int) -> None:
    """pip unpacks gigabytes without a word; what it returns counts, and nothing goes on after it."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    script = f'case "$*" in *--editable*) mkdir -p {tmp_path}/lib/python3/site-packages/torch.dist-info; sleep 3; exit {code};; esac'
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    command = ["make", "--no-print-directory", "setup", f"VENV={tmp_path}", "BEAT=0.3"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, (tmp_path / ".ready").exists()) == ((0, True) if code == 0 else (2, False))
    assert len(re.findall(rf"^still installing after \d+ s: 1 packages, \d+ MB in {tmp_path}$", result.stdout, re.MULTILINE)) > 1


def test_python_snippet() -> None:
    import torch

    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {
        "model": torch.nn.Linear(4, 3),
        "inputs": torch.randn(5, 4),
        "coefficients": torch.rand(5, 3),
        "meta_inputs": torch.randn(6, 4),
        "meta_targets": torch.randint(0, 3, (6,)),
        "learning_rate": 0.1,
    }
    exec(snippet, names)
    assert names["gradient"].shape == (5, 3)
