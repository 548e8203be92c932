"""The suite as a wheel in an empty folder, and packages in other places than this Python's own: nothing is missing, no code is another."""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from markdown_blocks import ROOT
from real_runs import tiny
from second_user import NOBODY, needs_root

from repro.runs.code import differs
from repro.training.run import execute
from sweeps.spec import known_specs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

#: Where the packages lie that these tests run with.
PACKAGES = Path(torch.__file__).parents[1]
DEMO = ("demo", "demo_curves", "demo_labels")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a venv that has the wheel, and the present packages by a line in a file of paths."""
    folder = tmp_path_factory.mktemp("installed")
    # From a copy: a build leaves folders behind.
    for name in ("pyproject.toml", "README.md", "LICENSE", "repro", "sweeps", "slurm", "analysis", "paper_tables/reported"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--no-cache-dir", "--disable-pip-version-check"]
    here = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *here, "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")], check=True)
    venv.create(folder / "venv", symlinks=True)
    python = folder / "venv/bin/python"
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "--python", str(python), "install", *here, str(wheel)], check=True)
    (site,) = folder.glob("venv/lib/*/site-packages")
    (site / "present.pth").write_text(f"{PACKAGES}\n")
    names = {path.name for path in site.iterdir() if "dist-info" not in path.name}
    assert names == {"repro", "sweeps", "slurm", "analysis", "paper_tables", "present.pth"}
    return python


def call(python: Sequence[str], words: str, *, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command without a home directory; nothing in the environment leads back to the checkout, but for what ``variables`` say."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("REPRO_", "PYTHON"))}
    environment = kept | {"HOME": "/nonexistent"} | variables
    return subprocess.run([*python, "-m", *words.split()], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("place", ["wheel", pytest.param("checkout of another user, ASCII", marks=needs_root)])
def test_from_an_empty_folder(place: str, request: pytest.FixtureRequest) -> None:
    with tempfile.TemporaryDirectory(prefix="läufe & co ", dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o777)
        if place == "wheel":
            everything(folder, [str(request.getfixturevalue("installed"))])
        else:
            everything(folder, NOBODY, PYTHONPATH=str(ROOT), LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")


def everything(folder: Path, python: Sequence[str], **variables: str) -> None:
    for words, printed in (
        ("repro method=instance_labels dataset=digits seed=0 optim.epochs=1", "runs/instance_labels-digits-"),
        (f"sweeps plan {' '.join(known_specs())}", "table9"),
        (f"sweeps run {' '.join(DEMO)} --scale smoke --jobs 2", "48"),
        ("analysis tables demo --scale smoke", "Instance labels (ours)"),
        ("analysis figures demo_curves demo_labels --scale smoke", "demo_curves.png"),
        ("analysis report --scale smoke --out pages", "pages/report.html"),
        ("analysis tables table1 table9", "77.1"),
        ("slurm submit demo --cluster example --dry-run", "sbatch"),
    ):
        done = call(python, words, cwd=folder, **variables)
        assert (done.returncode, printed in done.stdout) == (0, True), f"{words}\n{done.stdout}{done.stderr}"
    refused = call(python, "analysis check", cwd=folder, **variables)
    assert (refused.returncode, refused.stderr.count("\n"), "checkout" in refused.stderr) == (2, 1, True), refused.stderr
    assert {path.name for path in folder.iterdir()} == {"runs", "pages"}


def test_runs_are_the_same_wherever_packages_lie(installed: Path, tmp_path: Path) -> None:
    runs, link, plain = tmp_path / "runs", tmp_path / "link", Path(getattr(sys, "_base_executable", sys.executable))
    link.symlink_to(PACKAGES)
    folder = execute(tiny(runs))
    environments = {"venv over a venv": (installed, None), "PYTHONPATH": (plain, PACKAGES), "symlink": (plain, link)}
    for seed, (name, (python, path)) in enumerate(environments.items(), start=1):
        variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}"} if path else {}
        settings = f"repro -m seed=0,{seed} method=one_hot dataset=digits model.width=4 optim.epochs=1 tracker=none exec.threads=1"
        done = call([str(python)], f"{settings} exec.device=cpu paths.runs={runs}", cwd=tmp_path, **variables)
        assert done.returncode == 0, f"{name}\n{done.stderr}"
        assert f"{folder.name} is done already" in done.stderr
    made = [path.parent for path in runs.glob("*/final.json")]
    assert len(made) == 4
    assert not any(map(differs, made))
    assert "packages" not in "".join(path.read_text() for one in made for path in one.glob("*.json"))
