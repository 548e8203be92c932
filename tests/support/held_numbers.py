"""The numbers that docs repeat, each a reference such as ``[+6.8 (6.3 to 7.4)][noise]``, whose definition says where it stands.

Below the page, ``[noise]: ../paper_tables/claims.csv "noise_over_one_hot"`` names a claim or a comparison of the scale small,
``... "verdict of noise_over_one_hot"`` its verdict, ``../paper_tables/small/table6.md "L2RW [18] | CIFAR10, 40%"`` a cell,
``../sweeps/tuned/small.yaml "rate_of_simplex | 15.0"`` the validation accuracy (%) at a label learning rate that was tried,
``../paper_tables/evidence/small/runs.jsonl "runs"`` or ``"core-hours"`` what all runs are, and
``benchmarks/wrong_labels.md "CIFAR10N, worst | One-hot | AUROC (%)"`` a cell of the benchmark's page.
``python tests/support/held_numbers.py`` puts in what stands there now.
"""

import csv
import json
import re
from pathlib import Path

import yaml
from markdown_blocks import ROOT

PAGES = [ROOT / name for name in ("README.md", "docs/report.md", "docs/findings.md", "docs/deviations.md")]


def stands(path: Path, title: str) -> str:
    """Return what stands at ``title`` of the file at ``path``."""
    if path.suffix == ".jsonl":
        runs = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        seconds = sum(run["cost"]["wall_s"] * (run["provenance"].get("threads") or 1) for run in runs)
        return f"{len(runs):,}" if title == "runs" else f"{seconds / 3600:.0f}"
    if path.suffix == ".yaml":
        tuning, rate = title.split(" | ")
        tuned = yaml.safe_load(path.read_text(encoding="utf-8"))["tuned"]
        points = {
            point["values"]["method.learning_rate"]: point["score"] for one in tuned if one["name"] == tuning for point in one["grid"]
        }
        return f"{100 * points[float(rate)]:.1f}"
    if path.parent.name == "benchmarks":
        images, what, column = title.split(" | ")
        table = csv.DictReader(re.findall(r"^\|.*", re.sub(r" *\| *", "|", path.read_text()), re.MULTILINE), delimiter="|")
        return next(row[column] for row in table if [row["images"], row["list"].removesuffix(", chosen")] == [images, what])
    if path.suffix == ".md":
        cells = rows(path.with_suffix(".cells.csv"))
        return next(cell["text"] for cell in cells if f"{cell['row']} | {cell['column']}" == title)
    verdict, name = title.startswith("verdict of "), title.removeprefix("verdict of ")
    claims = (row for row in rows(path) if (row["scale"], row["seeds"]) == ("small", "all"))
    return next(row["verdict" if verdict else "text"] for row in claims if name in (row["id"], row["comparison"]))


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def held(page: Path) -> str:
    """Return the text of ``page`` with the numbers that stand where its references say."""
    text = page.read_text(encoding="utf-8")
    for name, target, title in re.findall(r'^\[(.+?)\]: (\S+)\s+"(.+)"$', text, flags=re.MULTILINE):
        text, count = re.subn(rf"\[[^\][]*\]\[{re.escape(name)}\]", f"[{stands(page.parent / target, title)}][{name}]", text)
        assert count, f"[{name}] is defined and not used"
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(held(page), encoding="utf-8")
