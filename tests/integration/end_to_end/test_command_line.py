"""``python -m repro`` as a user meets it: its output, its exit codes, and its answers to mistakes and to a hostile disk."""

import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from repro.__main__ import main
from repro.config.compose import compose
from repro.errors import UserError
from repro.training.run import execute

SMALL = ["method=one_hot", "dataset=digits", "seed=0", "optim.epochs=1", "tracker=none", "exec.threads=1"]


def command(*arguments: str, runs: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "REPRO_RUNS": str(runs), "COLUMNS": "200"}
    return subprocess.run(
        [sys.executable, "-m", "repro", *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300, check=False
    )


def test_last_line_is_the_run_folder_and_nothing_else_is_left(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    result = command(*SMALL, runs=tmp_path / "runs", cwd=work)
    assert result.returncode == 0, result.stderr
    folder = Path(result.stdout.splitlines()[-1])
    assert json.loads((folder / "status.json").read_text())["state"] == "done"
    assert "epoch 1/1" in result.stderr
    assert not list(work.iterdir())


def test_debug_shows_everything_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = [tmp_path / name for name in ("work", "temporary")]
    for place in places:
        place.mkdir()
    monkeypatch.setenv("TMPDIR", str(places[1]))
    result = command(*SMALL[:3], "exec=debug", runs=tmp_path / "runs", cwd=places[0])
    assert result.returncode == 0, result.stderr
    assert "2 epochs of one batch; the run has 60 of 21" in result.stderr
    assert "train/loss" in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "runs").exists()
    assert not any(list(place.iterdir()) for place in places)


def test_multirun_trains_each(tmp_path: Path) -> None:
    result = command("-m", *SMALL[:2], "seed=0,1", *SMALL[3:], runs=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.glob("one_hot-digits-*/final.json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["method=one_hot", "dataset=cifar100", "seed=0", "tracker=none"], "cifar-100-python"),
        ([*SMALL, "exec.device=cuda"], "error: exec.device=cuda"),
        ([*SMALL, "exec=debug", "exec.compile=true"], "error: exec.debug=true contradicts exec.compile"),
        (["method=instance_labels", *SMALL[1:3], "meta.batch_size=101", "tracker=none"], "error: meta.batch_size=101"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: list[str], message: str) -> None:
    if "exec.device=cuda" in arguments:
        torch = pytest.importorskip("torch")
        if torch.cuda.is_available():
            pytest.skip("there is a CUDA device here")
    result = command(*arguments, f"paths.data={tmp_path / 'data'}", runs=tmp_path / "runs")
    assert result.returncode == 2
    assert message in result.stderr, result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, "+noise.rate=0.4", "--cfg", "job"], "noise=none has no setting 'rate'"),
        (["-m", *SMALL[:2], "seed=0,1", "+optim.epoch=1"], "Did you mean 'optim.epochs'?"),
        (["-m", *SMALL[:2], "seed=0,1", "hydra.sweep.dir=elsewhere"], "Hydra itself has no settings here"),
        (["-m", *SMALL[:2], "seed=range(0,1e9)"], "more than 10000 runs"),
        (["-m", *SMALL[:2], "seed=interval(0,1)"], "an interval has no end of values"),
        (["-m", *SMALL[:2], "seed=0,a"], "seed=a: must be a whole number"),
        (["-m", *SMALL, "--cfg", "job"], "not allowed with argument"),
        ([*SMALL, "seed=1"], "seed is given twice: seed=0 and seed=1"),
        ([*SMALL, "--config-name", "other"], "there is no option --config-name"),
        ([*SMALL, "--config-dir=/tmp"], "there is no option --config-dir"),
        (["--experimental-rerun", "config.pickle"], "there is no option --experimental-rerun"),
        (["--learning_rate=3"], "Did you mean 'optim.learning_rate'?"),
        (["--lr=3"], "Did you mean 'optim.learning_rate'?"),
        (["--hlep"], "Did you mean '--help'?"),
        (["--hydra-help"], "`python -m repro --help`"),
        (["--resolve"], "only --cfg job"),
        (["--package", "optim"], "only --cfg job"),
        ([*SMALL, "--cfg", "job", "-p", "optm"], "Did you mean 'optim'?"),
        (["--cfg", "hydra"], "invalid choice: 'hydra'"),
        (["--info", "nothing"], "invalid choice: 'nothing'"),
        (["--help", "optim.lr=3"], "Did you mean 'optim.learning_rate'?"),
        ([*SMALL, "noise.name=uniform"], "Write noise=uniform"),
        ([*SMALL, "optim.batch_size=${nope}"], "optim.batch_size=${nope}: "),
        ([*SMALL, "exec.heartbeat_s=1e10"], "exec.heartbeat_s=10000000000.0: must be"),
        *(([*SMALL, text], "error: ") for text in ("optim.epochs=0x10", "optim.epochs=${optim}", "paths.runs=''", "paths.runs='\udcff'")),
        *(([*SMALL, f"{sign}noise.rate=0.1", "--cfg", "job"], "error: ") for sign in ("", "++", "~")),
        *(([*SMALL, f"{sign}optim.momentum=0.5", "-m"], "error: ") for sign in ("+", "++", "~")),
        *(([*SMALL, option, "x"], "error: ") for option in ("-cn", "-cp", "-cd")),
        *(([*SMALL, option], "error: ") for option in ("-p", "-psplit", "--cfg", "--cfg=all", "-sc", "--shell-completion", "-x")),
        *(([*SMALL, option, "hydra.verbose=true"], "error: ") for option in ("--help", "--info", "-m", "--cfg=job")),
    ],
)
def test_nothing_typed_is_ignored(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["repro", *arguments])
    monkeypatch.setenv("REPRO_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert message in printed.err, printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out
    assert not list(tmp_path.iterdir())


def printed_by(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setattr(sys, "argv", ["repro", *arguments])
    # Hydra changes the settings of logging, which belong to pytest here.
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: None)
    with contextlib.suppress(SystemExit):
        main()
    printed = capsys.readouterr()
    assert "error" not in printed.err, printed.err
    return printed.out


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    show = functools.partial(printed_by, monkeypatch=monkeypatch, capsys=capsys)
    assert "epochs: 1" in show(*SMALL, "--cfg", "job")
    assert show("--cfg", "job", *SMALL[:3], "-p", "seed") == "0\n"
    assert show("--cfg", "job", *SMALL, "-p", "optim").startswith("name: digits_cnn\n")
    monkeypatch.setenv("REPRO_RUNS", "elsewhere")
    assert "runs: elsewhere" in show("--cfg", "job", "--resolve", *SMALL)
    assert "Hydra" in show("--version")
    # Settings may stand before and after an option.
    assert "epochs: 1" in show(*SMALL[:2], "--cfg", "job", *SMALL[2:])


def test_help_names_choices_and_settings(tmp_path: Path) -> None:
    """In a process of its own, since Hydra configures logging, which belongs to pytest here."""
    helped = command("--help", "optim.epochs=7", runs=tmp_path).stdout
    assert all(words in helped for words in ("model: alexnet, cnn_9", "optim: alexnet", "name: instance_labels", "epochs: 7"))


@pytest.mark.parametrize("what", [[], ["config"], ["defaults"], ["defaults-tree"], ["plugins"], ["searchpath"]])
def test_info(tmp_path: Path, what: list[str]) -> None:
    shown = command("--info", *what, runs=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout
    assert "Traceback" not in shown.stderr


@pytest.mark.parametrize(("option", "code"), [("--help", 128 + signal.SIGPIPE), ("--info", 0)])
def test_a_reader_that_has_seen_enough_is_no_error(option: str, code: int) -> None:
    reads, writes = os.pipe()
    os.close(reads)
    ended = subprocess.run([sys.executable, "-m", "repro", option], stdout=writes, stderr=subprocess.PIPE, timeout=300, check=False)
    os.close(writes)
    assert (ended.returncode, ended.stderr) == (code, b"")


@pytest.mark.parametrize("place", ["loop", "loop/below", "file", "file/below", "a" * 300, "a/" * 3000])
@pytest.mark.parametrize("field", ["paths.runs", "paths.data"])
def test_places_that_cannot_be(tmp_path: Path, place: str, field: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    dataset = "dataset=digits" if field == "paths.runs" else "dataset=cifar10"
    arguments = ["method=one_hot", dataset, "seed=0", "optim.epochs=1", "tracker=none", "paths.runs=" + str(tmp_path / "runs")]
    arguments = [text for text in arguments if not text.startswith(field)]
    with pytest.raises(UserError) as caught:
        execute(compose([*arguments, f"{field}={tmp_path / place}"]))
    assert str(tmp_path / place)[:100] in str(caught.value)


def test_a_home_that_nobody_has(tmp_path: Path) -> None:
    arguments = ["method=one_hot", "dataset=cifar10", "seed=0", "tracker=none", f"paths.runs={tmp_path}"]
    with pytest.raises(UserError, match="paths.data=~nobody_here/data"):
        execute(compose([*arguments, "paths.data='~nobody_here/data'"]))


@pytest.mark.parametrize("foreign", [False, True])
def test_a_folder_that_is_not_the_runs_is_refused_and_left_alone(tmp_path: Path, foreign: bool) -> None:
    first, second = (execute(compose([*SMALL[:2], f"seed={seed}", *SMALL[3:], f"paths.runs={tmp_path}"])) for seed in (0, 1))
    shutil.rmtree(first)
    second.rename(first)
    if foreign:
        (first / "identity.json").unlink()
    before = sorted((path, path.stat().st_mtime_ns) for path in first.rglob("*"))
    with pytest.raises(UserError, match="no run folder of ours" if foreign else "seed: there 1, here 0"):
        execute(compose([*SMALL, f"paths.runs={tmp_path}"]))
    assert before == sorted((path, path.stat().st_mtime_ns) for path in first.rglob("*"))


def test_full_disk(small_disk: Path) -> None:
    """The error names the file; what was saved stays whole; with room, the same command resumes."""
    arguments = [
        "dataset=digits",
        "seed=0",
        "tracker=none",
        "exec.threads=1",
        "optim.epochs=30",
        "exec.checkpoint_interval_s=0",
        "method=instance_labels",
    ]
    result = command(*arguments, runs=small_disk)
    assert result.returncode == 2, result.stderr
    assert "No space left on device" in result.stderr
    assert str(small_disk) in result.stderr
    assert "Traceback" not in result.stderr
    (folder,) = small_disk.iterdir()
    for path in folder.glob("*.json"):
        json.loads(path.read_text())
    subprocess.run(["mount", "-o", "remount,size=16m", str(small_disk)], check=True)
    again = command(*arguments, runs=small_disk)
    assert again.returncode == 0, again.stderr
    assert json.loads((folder / "status.json").read_text())["state"] == "done"


def test_read_only_folder(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    result = command(*SMALL, runs=small_disk)
    assert result.returncode == 2
    assert "Read-only file system" in result.stderr
    assert "REPRO_RUNS" in result.stderr
    assert "Traceback" not in result.stderr
