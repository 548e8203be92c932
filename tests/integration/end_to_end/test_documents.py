"""Every page of Markdown: its links lead somewhere, its lines are not too long, its Python is Python, its commands have such options."""

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from markdown_blocks import ROOT, anchors, blocks, links

#: Where each page is made by a command, so that its lines are as long as what it says.
GENERATED = ("paper_tables/", "docs/benchmarks/20", "docs/benchmarks/wrong_labels")
LISTED = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False)
PAGES = sorted(ROOT / name for name in LISTED.stdout.split() if (ROOT / name).exists())
WRITTEN = [page for page in PAGES if not page.relative_to(ROOT).as_posix().startswith(GENERATED)]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_pages_are_found() -> None:
    if LISTED.returncode:
        pytest.skip("git does not list the files of this copy")
    assert {"README.md", "docs/concepts.md", "docs/guides/add-a-method.md", "paper_tables/README.md"} <= {name_of(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in links(text):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert ROOT in target.parents, f"{link} leads out of the repository"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_lines_have_at_most_140_characters(page: Path) -> None:
    lines = page.read_text(encoding="utf-8").splitlines()
    # A row of a table cannot be broken.
    assert [number for number, line in enumerate(lines, 1) if len(line) > 140 and not line.startswith("|")] == []


@pytest.mark.parametrize("page", WRITTEN, ids=name_of)
def test_blocks_of_code_are_code(page: Path) -> None:
    """The guides and the README are run elsewhere; everywhere else, Python compiles and commands have the options that they are given."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.kind == "python":
            compile(block.text, f"{page}:{block.line}", "exec")
        for line in block.text.splitlines():
            check_command(line, f"{page}:{block.line}")


def test_the_glossary_is_short() -> None:
    rows = (ROOT / "docs/concepts.md").read_text(encoding="utf-8").partition("## Glossary")[2].split("|---|---|\n")[1].splitlines()
    assert 0 < len(rows) <= 25


def check_command(line: str, where: str) -> None:
    found = re.match(r"\s*(?:\w+=\S+ )*(?:\S*/)?python -m (sweeps|analysis|slurm) (.*)", line)
    if not found or "..." in line:
        return
    words = re.split(r"\s(?:#|\||&&|2>)", found[2])[0].split("   ")[0]
    try:
        parser_of(found[1]).parse_args(shlex.split(words))
    except SystemExit as ended:
        if ended.code:
            pytest.fail(f"{where}: {line}")


def parser_of(program: str) -> Any:
    import importlib

    return importlib.import_module(f"{program}.__main__")._parser()
