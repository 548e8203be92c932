import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_workers import finish
from made_specs import RECIPE, SCALE, TABLE, write

from repro.files import write_json
from repro.runs.manifest import write_manifest
from sweeps.__main__ import main
from sweeps.launch import Outcome


class Command:
    """Calls commands for the table of the tests, in a folder of their own."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.runs, self.spec, self._capsys = folder / "runs", write(folder, TABLE), capsys
        self.runs.mkdir()

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        found = main([command, *(arguments or (self.spec,)), "--runs", str(self.runs)])
        captured = self._capsys.readouterr()
        assert found == code, captured.err
        return captured.err if code else captured.out

    @property
    def names(self) -> list[str]:
        return [run["run_id"] for run in json.loads(self("plan", self.spec, "--json"))["runs"]]


@pytest.fixture
def call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_a_plan_counts_what_is_needed(call: Command) -> None:
    names = call.names
    finish(call.runs / names[0])
    (call.runs / names[3]).mkdir()
    write_json(call.runs / names[3] / "status.json", {"state": "failed", "error": "broken"})
    printed = call("plan")
    for line in (
        "tried: 8 cells, 26 runs (0 shared with other specs), 24 missing, 1 failed, 1 done",
        f"failed: tried: Final, Clean, seed=0 ({names[3]})",
        "not tuned yet: rate for digits, digits_cnn",
        "To tune: python -m sweeps tune",
        "GPU-hours  all runs  not done",
    ):
        assert line in printed
    assert (call.runs / "plans" / "tried.json").exists()


def test_a_plan_of_another_scale_says_so(call: Command, tmp_path: Path) -> None:
    scale = write(tmp_path, SCALE, "tiny.yaml")
    printed = call("plan", call.spec, write(tmp_path, RECIPE, "recipe.yaml"), "--scale", scale)
    assert "scale tiny: These numbers mean nothing." in printed
    assert "together: 16 runs, 16 missing" in printed


def test_the_grid_of_states(call: Command, tmp_path: Path) -> None:
    names = call.names
    for name in names[:4]:
        finish(call.runs / name)
    printed = call("status")
    assert "Final          1/2" in printed
    assert "- Taught, 40%: makes no sense" in printed
    assert "their inputs: 3/16" in printed
    assert "60" in call("status", write(tmp_path, RECIPE, "recipe.yaml"))


def test_files_that_changed_are_found(call: Command) -> None:
    name = call.names[0]
    finish(call.runs / name)
    finish(call.runs / "other")
    assert "2 finished runs" in call("verify", "--scale", "paper")
    write_manifest(call.runs / "other", {"final.json": "0" * 64})
    (call.runs / "other" / "final.json").write_text("{}")
    assert main(["verify", "--runs", str(call.runs)]) == 1
    assert "1 finished runs" in call("verify")


def test_run_trains_a_part_and_says_what_became_of_it(
    call: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def launch(plan: object, **options: object) -> Outcome:
        asked.update(options, plan=plan)
        return Outcome(done={"a": ""}, failed=dict.fromkeys(asked["plan"].runs, "broken"), out_of_time=True)

    monkeypatch.setattr("sweeps.launch.launch", launch)
    monkeypatch.setattr("sweeps.launch.start_server", lambda: None)
    arguments = [
        "--only",
        "One-hot, last",
        "--seeds",
        "1",
        "--jobs",
        "2",
        "--set",
        "exec.device=cpu",
        "--retry",
        "--changed-code",
        "accept",
    ]
    error = call("run", call.spec, *arguments, code=124)
    assert "failed: tried: One-hot, last, Clean, seed=1" in error
    assert "the time is over; the same command resumes with the 1 runs that are left." in error
    assert (len(asked["plan"].runs), asked["jobs"], asked["settings"], asked["retry"]) == (2, 2, ["exec.device=cpu"], True)
    assert asked["changed_code"] == "accept"
    error = call("run", call.spec, "--set", "exec.devcie=cpu", code=2)
    assert "exec.device" in error
    error = call("tune", call.spec, "--tuned", str(call.runs / "tuned"), code=124)
    assert error.count("broken") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "demmo"], "Did you mean 'demo'?"),
        (["plan", "demo", "--scale", "smal"], "Did you mean 'small'?"),
        (["plan", "broken.yaml"], "broken.yaml: it is not valid YAML"),
        (["plan", "absent.yaml"], "absent.yaml: it cannot be read: No such file or directory."),
        (["run", "demo", "--only", "Onehot"], "Did you mean 'One-hot'?"),
    ],
)
def test_a_slip_ends_in_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sweeps.launch.start_server", lambda: None)
    write(tmp_path, "title: [", "broken.yaml")
    assert main([*arguments, "--runs", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--set", "optim.epochs=3"], ["--seeds", "a"], ["--jobs", "0"], ["--changed-code", "equal"]])
def test_an_option_that_means_nothing_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["run", "demo", *arguments])
    assert arguments[0] in capsys.readouterr().err


def test_help_comes_without_torch() -> None:
    code = (
        "import sys; from sweeps.__main__ import main\ntry: main(['--help'])\nexcept SystemExit: print({'torch', 'hydra'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert "table1" in done.stdout
