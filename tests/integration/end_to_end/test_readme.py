"""The README and the pages of choices: what they name exists, and their commands are real ones, run at a small size."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from commands import command as call
from markdown_blocks import ROOT

from analysis.__main__ import main as analysis
from repro.config import registry
from sweeps.__main__ import main as sweeps

README = (ROOT / "README.md").read_text(encoding="utf-8")
SETTINGS = (ROOT / "docs/settings.md").read_text(encoding="utf-8")
COMMANDS = [line.split("  #")[0].strip() for page in (README, SETTINGS) for line in page.splitlines() if line.startswith("    ")]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REPRO_RUNS": str(folder / "runs"), "REPRO_DATA": str(folder / "data")}
    return call(command, cwd=folder, environment=environment)


@pytest.mark.parametrize("group", ["dataset", "model", "noise"])
def test_every_choice_is_in_the_table_of_choices(group: str) -> None:
    (line,) = re.findall(rf"^\| `{group}` \|.*$", SETTINGS, re.MULTILINE)
    assert [name for name in registry.choices(group) if f"`{name}`" not in line] == []


def test_every_method_is_in_the_table_of_methods_with_its_page() -> None:
    rows = (ROOT / "docs/methods/README.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\[`(\w+)`\]\(\1\.md\)", rows)) == sorted(registry.choices("method"))


def test_length() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("command", [line for line in COMMANDS if line.startswith("python -m repro ") and "joblib" not in line])
def test_training_commands(command: str, tmp_path: Path) -> None:
    preset = tmp_path / "presets/optim/mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text((ROOT / "repro/conf/optim/digits_cnn.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    words = shlex.split(command)[3:]
    settings = [word for word in words if "=" in word]
    options = [word for word in words if "=" not in word]
    if settings and "cifar" not in command:
        settings += ["optim.epochs=1", "tracker=none", "exec.threads=1"]
    result = run(shlex.join(["python", "-m", "repro", *settings, *options]), tmp_path)
    if "cifar" in command:
        assert result.returncode == 2
        assert "python -m repro.data download cifar100" in result.stderr
    else:
        assert result.returncode == 0, result.stderr


def test_commands_on_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One runs folder for all; what trains is replaced by its plan."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    planned = [shlex.split(command.replace("sweeps run", "sweeps plan").replace(" --jobs 2", "")) for command in COMMANDS]
    mains = {"sweeps": sweeps, "analysis": analysis}
    for _, _, program, *words in (command for command in planned if command[0] == "python" and command[2] in mains):
        assert mains[program](words) == 0, words


def test_the_demo_table_is_the_generated_one() -> None:
    shown = README.partition("<!-- demo table: begin -->\n")[2].partition("<!-- demo table: end -->")[0]
    generated = (ROOT / "paper_tables/demo/demo.md").read_text(encoding="utf-8")
    assert shown
    assert shown == "".join(line for line in generated.splitlines(keepends=True) if line.startswith("|"))


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make ")])
def test_make_targets_exist(command: str) -> None:
    assert re.search(rf"^{command.split()[1]}:.*## ", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


def test_python_snippet() -> None:
    import torch

    (snippet,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names = {"model": torch.nn.Linear(4, 3), "inputs": torch.randn(5, 4), "coefficients": torch.rand(5, 3)}
    names |= {"meta_inputs": torch.randn(6, 4), "meta_targets": torch.randint(0, 3, (6,)), "learning_rate": 0.1}
    exec(snippet, names)
    assert names["gradient"].shape == (5, 3)
