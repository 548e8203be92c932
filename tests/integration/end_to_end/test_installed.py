"""The suite as a wheel in an empty folder, and packages in other places than this Python's own: nothing is missing, no code is another."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from markdown_blocks import ROOT
from real_runs import tiny

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


def call(python: Path, words: str, *more: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command with nothing in the environment that leads back to the checkout, and without a home directory."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("REPRO_", "PYTHON"))}
    command = [str(python), "-m", *words.split(), *more]
    return subprocess.run(command, cwd=cwd, env=kept | {"HOME": "/nonexistent"} | variables, capture_output=True, text=True, check=False)


def test_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    tmp_path = tmp_path / "läufe & co"
    tmp_path.mkdir()
    for words, printed in (
        ("repro method=instance_labels dataset=digits seed=0 optim.epochs=1", "runs/instance_labels-digits-"),
        (f"sweeps plan {' '.join(known_specs())}", "table9"),
        (f"sweeps run {' '.join(DEMO)} --scale smoke --jobs 2", "48"),
        ("analysis tables demo --scale smoke", "Instance labels (ours)"),
        ("analysis figures demo_curves demo_labels --scale smoke", "demo_curves.png"),
        ("analysis report --scale smoke --out pages", "pages/report.html"),
        ("analysis tables table1 table9", "77.1 ± 0.3"),
        ("slurm submit demo --cluster example --dry-run", "sbatch"),
    ):
        done = call(installed, words, cwd=tmp_path)
        assert (done.returncode, printed in done.stdout) == (0, True), f"{words}\n{done.stdout}{done.stderr}"
    refused = call(installed, "analysis check", cwd=tmp_path)
    assert (refused.returncode, refused.stderr.count("\n"), "checkout" in refused.stderr) == (2, 1, True), refused.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "pages"}


def test_runs_are_the_same_wherever_packages_lie(installed: Path, tmp_path: Path) -> None:
    runs, link, plain = tmp_path / "runs", tmp_path / "link", Path(getattr(sys, "_base_executable", sys.executable))
    link.symlink_to(PACKAGES)
    folder = execute(tiny(runs))
    environments = {"venv over a venv": (installed, ""), "PYTHONPATH": (plain, PACKAGES), "symlink": (plain, link)}
    for seed, (name, (python, path)) in enumerate(environments.items(), start=1):
        variables = {"PYTHONPATH": f"{ROOT}{os.pathsep}{path}"} if path else {}
        settings = f"repro -m seed=0,{seed} method=one_hot dataset=digits model.width=4 optim.epochs=1 tracker=none exec.threads=1"
        done = call(python, f"{settings} exec.device=cpu paths.runs={runs}", cwd=tmp_path, **variables)
        assert done.returncode == 0, f"{name}\n{done.stderr}"
        assert f"{folder.name} is done already" in done.stderr
    made = [path.parent for path in runs.glob("*/final.json")]
    assert len(made) == 4
    assert not any(map(differs, made))
    assert "packages" not in "".join(path.read_text() for one in made for path in one.glob("*.json"))
