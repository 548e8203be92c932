"""The numbers that docs repeat: README's and the report's claims, references to pages, and the tables of the findings."""

import csv
import re
from pathlib import Path

import held_numbers
import pytest
import yaml
from markdown_blocks import ROOT

from analysis.tables.claims_page import short_block
from sweeps.scales import load_scale


def test_the_readme_has_the_claims_that_the_evidence_makes() -> None:
    begin, end = "<!-- claims: begin -->", "<!-- claims: end -->"
    for page, table in (("README.md", False), ("docs/report.md", True)):
        shown = (ROOT / page).read_text().partition(begin)[2].partition(end)[0]
        made = "\n".join(short_block(load_scale("small"), ROOT / "paper_tables" / "evidence", table=table))
        options = " --table" if table else ""
        assert shown.strip() == made, f"{page}, between {begin} and {end}: put in what `analysis claims --short small{options}` prints"


@pytest.mark.parametrize("page", held_numbers.PAGES, ids=lambda page: page.name)
def test_numbers_in_the_docs_are_those_of_the_evidence(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert text == held_numbers.held(page), "numbers that are not what the pages say; to put them in: python tests/support/held_numbers.py"


def page_rows(name: str) -> list[dict[str, str]]:
    return list(csv.DictReader((ROOT / "paper_tables" / "small" / name).read_text(encoding="utf-8").splitlines()))


def gradient(rows: dict[str, str], columns: dict[str, list[str]]) -> dict[tuple[str, str], str]:
    """Return the table on the gradient's directions as the committed curves make it."""
    points = {(row["row"], row["metric"], row["epoch"]): row for row in page_rows("label_gradient/label_gradient.csv")}
    texts = {}
    for name, row in rows.items():
        for column, (metric, epoch, spread) in columns.items():
            mean, sd = (100 * float(points[row, metric, epoch][key]) for key in ("mean", "sd"))
            texts[name, column] = f"{mean:.1f} ± {sd:.1f}" if spread else f"{mean:.0f}"
    return texts


def test_the_findings_have_the_numbers_of_the_pages() -> None:
    """The tables of docs/findings.md are cells of committed pages."""
    sources = yaml.safe_load((ROOT / "tests" / "support" / "findings.yaml").read_text(encoding="utf-8"))
    expected = {tuple(sources["gradient"]["columns"]): gradient(**sources["gradient"])}
    for table in sources["tables"]:
        texts = {}
        for name, row in table["rows"].items():
            for column, label in table["columns"].items():
                page, *place = row if isinstance(row, list) else (table["page"], row, label)
                cells = {(cell["row"], cell["column"]): cell["text"] for cell in page_rows(f"{page}.cells.csv")}
                # The tables stand for the runs that there are.
                texts[name, column] = re.sub(r" \(\d+/\d+\)$", "", cells[tuple(place)])
        expected[tuple(table["header"])] = texts
    shown = {}
    for block in re.findall(r"^(?:\|.*\|\n)+", (ROOT / "docs" / "findings.md").read_text(encoding="utf-8"), flags=re.MULTILINE):
        if "][" in block:
            continue  # references, which held_numbers holds
        (_, *header), _, *body = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        shown[tuple(header)] = {(name, column): text for name, *texts in body for column, text in zip(header, texts, strict=True)}
    assert shown == expected


def test_a_scale_without_new_seeds_has_its_blocks_too() -> None:
    evidence = ROOT / "paper_tables" / "evidence"
    assert "| not run |" in short_block(load_scale("paper"), evidence, table=True)[2]
    assert not any("new seeds" in line for line in short_block(load_scale("paper"), evidence))
