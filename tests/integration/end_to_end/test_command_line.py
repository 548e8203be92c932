"""``python -m repro`` as a user meets it: its output, its exit codes, and its answers to mistakes and to a full disk."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import python

from repro.__main__ import main
from repro.config.schema import Config
from repro.errors import UserError

SMALL = ["method=one_hot", "dataset=digits", "seed=0", "optim.epochs=1", "tracker=none", "exec.threads=1"]


def train(*arguments: str, runs: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return python("-m", "repro", *arguments, cwd=cwd, environment={**os.environ, "REPRO_RUNS": str(runs)})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder for ``main`` in this process, which Hydra gives its own logging."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REPRO_RUNS", "runs")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "")
    monkeypatch.setattr(sys, "argv", ["repro"])
    handlers, level = logging.root.handlers[:], logging.root.level
    yield tmp_path
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def trained(here: Path, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The settings of the runs that would be trained; one with seed 1 fails."""
    configs: list[Config] = []

    def execute(config: Config) -> Path:
        configs.append(config)
        if config.seed == 1:
            raise UserError("no disk")
        return Path(f"folder of {config.seed}")

    monkeypatch.setattr("repro.training.run.execute", execute)
    return configs


def code_of(*arguments: str) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_last_line_is_the_run_folder_and_nothing_else_is_left(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "REPRO_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "repro", *SMALL]
    result = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.splitlines()[-1])
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert "epoch 1/1" in result.stderr
    assert not list(work.iterdir())


def test_debug_shows_everything_and_leaves_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of(*SMALL[:3], "exec=debug") == 0
    printed = capsys.readouterr()
    assert "debug: no error; no file was kept" in printed.err
    assert "train/loss" in printed.err
    assert not printed.out
    assert not list(here.iterdir())


def test_runs_side_by_side(tmp_path: Path) -> None:
    result = train("-m", *SMALL, "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", runs=tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("one_hot-digits-*/final.json"))) == 2
    assert (tmp_path / "multirun" / "multirun.yaml").is_file()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_run_that_fails_is_told_and_ends_no_other(trained: list[Config], capsys: pytest.CaptureFixture[str]) -> None:
    assert code_of("-m", *SMALL, "seed=range(0,3)") == 2
    assert [config.seed for config in trained] == [0, 1, 2]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["folder of 0", "folder of 2"]
    told = printed.err.splitlines()
    assert [line.endswith("error: no disk") for line in told].index(True) < next(i for i, line in enumerate(told) if "#2" in line)
    assert told[-1] == "error: no disk"


def test_settings_of_one_run(trained: list[Config], here: Path) -> None:
    (here / "mine" / "optim").mkdir(parents=True)
    (here / "mine" / "optim" / "my_recipe.yaml").write_text(
        "name: my_recipe\nepochs: 7\nlearning_rate: 0.3\nweight_decay: 0.0\nmilestones: [5]\n"
    )
    assert code_of("--config-dir", "mine", *SMALL[:3], "optim=my_recipe", "seed=4", "exec.threads=2", "exec.threads=3") == 0
    (config,) = trained
    assert (config.optim.name, config.optim.epochs, config.seed, config.exec.threads) == ("my_recipe", 7, 4, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "+foo=1"], "foo: there is no such setting"),
        ([*SMALL, "optim.epoch=1"], "Did you mean 'optim.epochs'?"),
        ([*SMALL, "noise=unifrm", "noise.rate=0.4"], "Did you mean 'uniform'?"),
        ([*SMALL, "noise=uniform", "noise.rate=40"], "error: noise.rate=40.0: must be at least 0.0 and at most 1.0"),
        ([*SMALL, "optim.epochs=three"], "Value 'three' of type 'str' could not be converted to Integer"),
        (["method=one_hot", "seed=0"], "Available options: cifar10 cifar100 digits fashion_mnist"),
        (SMALL[:2], "error: not set: seed"),
        (["-m", *SMALL, "seed=0,a"], "Value 'a' of type 'str' could not be converted to Integer"),
        ([*SMALL, "seed=0,1"], "add --multirun"),
        (["--learning_rate=3", *SMALL], "Did you mean 'optim.learning_rate'?"),
        ([*SMALL[:3], "--cfg", "job", "optim.epochs=1"], "stand together"),
        ([*SMALL, "--config-dir", "nowhere"], "nowhere' not found"),
    ],
)
def test_a_slip_trains_nothing_and_is_told_in_few_lines(
    arguments: list[str], message: str, trained: list[Config], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code_of(*arguments) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) <= 5
    assert "Traceback" not in printed.err
    assert not printed.out
    assert not trained
    assert not list(here.glob("runs/*-*"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--help", "optim.epochs=7"], ["exec: audit, auto, debug, fast", "name: instance_labels", "epochs: 7", "-m KEY=A,B,..."]),
        (["-h", "method=focal"], ["name: focal"]),
        (["--cfg", "job", *SMALL, "-p", "optim"], ["name: digits_cnn", "epochs: 1"]),
        ([*SMALL, "--cfg", "job", "--resolve"], ["runs: runs"]),
        (["--info", "defaults", *SMALL], ["optim/digits_cnn"]),
        (["--version"], ["Hydra"]),
    ],
)
def test_what_is_printed(arguments: list[str], words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_of(*arguments)
    printed = capsys.readouterr().out
    assert all(word in printed for word in words), printed


COMPLETE = """
eval "$(soft-labels -sc install=bash)"
for line in "method=instance_" "method=one_hot dataset=digits optim.learn"; do
    COMP_LINE="soft-labels $line"
    words=($COMP_LINE)
    COMP_POINT=${#COMP_LINE} COMP_CWORD=$((${#words[@]} - 1))
    hydra_bash_completion
    echo "${COMPREPLY[@]}"
done
"""


def test_bash_completes_settings(tmp_path: Path) -> None:
    script = tmp_path / "soft-labels"
    script.write_text(f"#!{sys.executable}\nfrom repro.__main__ import main\nmain()\n")
    script.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(["bash", "-c", COMPLETE], env=environment, capture_output=True, text=True, timeout=300, check=True)
    assert result.stdout.split() == ["method=instance_labels", "optim.learning_rate="]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dataset=cifar100", "paths.data=nowhere"], "cifar-100-python"),
        (["paths.runs=file/below"], "file/below"),
        (["method=instance_labels", "meta.batch_size=101"], "meta.batch_size=101"),
    ],
)
def test_what_only_the_run_itself_can_find(arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "file").touch()
    assert code_of(*SMALL, *arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "Traceback" not in printed


def test_full_disk(small_disk: Path) -> None:
    """The error names the file; what was saved stays whole; with room, the same command resumes."""
    arguments = [*SMALL, "method=instance_labels", "optim.epochs=10", "exec.checkpoint_interval_s=0"]
    result = train(*arguments, runs=small_disk, cwd=small_disk)
    assert result.returncode == 2, result.stderr
    assert "No space left on device" in result.stderr
    assert str(small_disk) in result.stderr
    assert "Traceback" not in result.stderr
    (folder,) = small_disk.iterdir()
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    result = train(*arguments, "exec.checkpoint_interval_s=600", runs=small_disk, cwd=small_disk)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = train(*SMALL, runs=small_disk, cwd=small_disk)
    assert result.returncode == 2
    assert "Read-only file system" in result.stderr
    assert "REPRO_RUNS" in result.stderr
    assert "Traceback" not in result.stderr
