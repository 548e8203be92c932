"""The guides and notebooks work as they stand: their files are written, and their commands and Python run, in order."""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from commands import command, python
from markdown_blocks import ROOT, Block, blocks

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
COPIED = ("repro", "sweeps", "slurm", "analysis", "tests", "docs", "pyproject.toml")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy(source, tmp_path / name)
    return tmp_path


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("guide", GUIDES, ids=[path.stem for path in GUIDES])
def test_a_guide_works_as_it_stands(guide: Path, checkout: Path) -> None:
    for block in blocks(guide.read_text(encoding="utf-8")):
        if block.file is not None:
            path = checkout / block.file
            assert not path.exists(), f"{guide.name}:{block.line}: {block.file} is there already"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.kind in ("commands", "python"):
            assert is_complete(block), f"{guide.name}:{block.line}: an indented block is a list of commands"
            run_block(block, checkout, f"{guide.name}:{block.line}")
        elif block.kind == "text":
            for line in block.text.splitlines():
                if line.startswith("python "):
                    check_options(line)
        else:
            raise AssertionError(f"{guide.name}:{block.line}: nobody runs a block of {block.kind}")


def is_complete(block: Block) -> bool:
    return block.kind == "python" or all(line.startswith("python ") for line in block.text.splitlines())


def run_block(block: Block, checkout: Path, where: str) -> None:
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("REPRO_")},
        "PYTHONPATH": str(checkout),
        # Hydra brings a plugin of pytest, and is imported before it here.
        "PYTEST_ADDOPTS": "-W ignore::pytest.PytestAssertRewriteWarning",
    }
    for text in [block.text] if block.kind == "python" else block.text.splitlines():
        call = functools.partial(python, "-c", text) if block.kind == "python" else functools.partial(command, text)
        result = call(cwd=checkout, environment=environment)
        assert result.returncode == 0, f"{where}\n{text}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def check_options(command: str) -> None:
    """Check a command that needs a cluster or finished runs against the options of its program."""
    from analysis.__main__ import _parser as analysis_parser
    from slurm.__main__ import _parser as slurm_parser

    python, flag, program, *words = command.split("  #")[0].split()
    assert (python, flag) == ("python", "-m")
    {"analysis": analysis_parser, "slurm": slurm_parser}[program]().parse_args(words)


def test_every_guide_is_found() -> None:
    linked = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8") + (ROOT / "README.md").read_text(encoding="utf-8")
    assert GUIDES
    assert [guide.name for guide in GUIDES if f"docs/guides/{guide.name}" not in linked] == []


def test_parts_of_blocks() -> None:
    page = "`a/b.yaml`:\n\n```yaml\nx: 1\n```\n\nText:\n\n    python -m repro\n\n```python\ny\n```\n"
    assert list(blocks(page)) == [
        Block("yaml", "x: 1\n", "a/b.yaml", 3),
        Block("commands", "python -m repro\n", None, 9),
        Block("python", "y\n", None, 11),
    ]


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs(notebook: Path) -> None:
    code = [cell for cell in cells(notebook) if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    """Cell after cell in one process; `plt.show()` writes each figure."""
    show = "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"
    show += "def _show(n=[0]): n[0] += 1; plt.savefig(f'figure{n[0]}.png'); plt.close()\nplt.show = _show\n"
    code = show + "\n".join("".join(cell["source"]) for cell in cells(notebook) if cell["cell_type"] == "code")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("REPRO_")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert list(tmp_path.glob("figure*.png"))
