"""The page of finding wrong labels: the runs of the spec ``wrong_labels``, several of them in one list, the peers, and what each costs.

``python benchmarks/wrong_labels_page.py docs/benchmarks/wrong_labels.jsonl --scale small``

The file has the lines of both kinds that ``benchmarks/wrong_labels.py`` prints; the runs stand in the evidence. The page and a picture
of average precision against CPU seconds are written beside the file, with its name.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.style
import pandas as pd
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, and not installed

from analysis.figures.draw import STYLES, saved
from analysis.reading.evidence import FOLDER, open_source
from analysis.reading.results import Results, read_results
from analysis.tables.page import disclaimer_lines, grid_lines, write_files
from repro.command import exit_code_of
from sweeps.scales import PAPER, load_scale
from sweeps.spec import load_spec

#: What is shown of each list: how it is called, its factor and format, and what it is called among the results of a run.
SHOWN = {
    "cpu_s": ("CPU seconds", 1, ".3g", "cpu_s"),
    "average_precision": ("average precision (%)", 100, ".1f", "doubt/average_precision@last"),
    "auroc": ("AUROC (%)", 100, ".1f", "doubt/auroc@last"),
    "false_negative_rate": ("missed (%)", 100, ".1f", "doubt/false_negative_rate@last"),
    "right_after": ("right labels (%)", 100, ".1f", "doubt/right_labels@last"),
}

NOTES = """\
Means over the seeds that are done; a list that is not there has not run. *missed* is the share of wrong labels that is not found where as
many images are flagged as are wrong (false negative rate); *right labels* those after relabelling by the rule of each. A CPU second is one
of one thread, with two runs at a time; in a list of several runs it is the sum of theirs. Instance labels, L2RW and Meta-Weight-Net read
the clean meta images while they train, and the rule for relabelling is chosen on them; the peers train on them as further images, where
there are others to choose the number of epochs on. Co-teaching is told the share of wrong labels. *chosen* is the number of epochs whose
networks predict the clean validation images best.
"""


def of_runs(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a line for each finished run of the spec, with what :data:`SHOWN` names, as ``benchmarks/wrong_labels.py`` prints them."""
    for cell in results.cells:
        for run in results.runs.loc[results.done(cell)].to_dict("records"):
            measured = {name: run[result] for name, (*_, result) in SHOWN.items()}
            # A run may have been trained before it measured this.
            if None not in measured.values():
                yield {"column": cell.column, "what": cell.row} | measured


def means(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the mean of each column and list, in the order of ``lines``; of each peer, that of the best number of epochs is marked.

    Lists of one peer are one ``series``.
    """
    mean = pd.DataFrame(lines).groupby(["column", "what"], sort=False).mean(numeric_only=True).reset_index()
    mean["series"] = mean["what"].str.replace(r", \d+ epochs$", ", by epochs", regex=True)
    best = mean.dropna(subset="val_accuracy").groupby(["column", "series"])["val_accuracy"].idxmax()
    mean.loc[best, "what"] += ", chosen"
    return mean


def picture(mean: pd.DataFrame) -> bytes:
    """Return average precision against CPU seconds as PNG, a panel a column."""
    mean = mean.dropna(subset="cpu_s")
    columns = list(dict.fromkeys(mean["column"]))
    # A panel may lack some of them.
    styles = {series: {"marker": "osDv^<>P*Xdhp"[index], "color": f"C{index}"} for index, series in enumerate(mean["series"].unique())}
    with matplotlib.style.context(STYLES, after_reset=True):
        lines = -(-len(columns) // 4)
        figure = Figure(figsize=(10, 1 + 2.4 * lines), layout="constrained")
        panels = figure.subplots(lines, -(-len(columns) // lines), squeeze=False, sharex=True).ravel()
        for axes, column in zip(panels, columns, strict=False):
            for series, found in mean[mean["column"] == column].groupby("series", sort=False):
                axes.plot(found["cpu_s"], 100 * found["average_precision"], label=series, **styles[series])
            axes.set_title(column, fontsize=8)
        ticks = [lead * 10**power for power in range(5) for lead in (1, 3)]
        panels[0].set_xscale("log")
        panels[0].set_xticks(ticks, map(str, ticks))
        panels[0].set_xlim(mean["cpu_s"].min() / 1.2, mean["cpu_s"].max() * 1.2)
        panels[0].minorticks_off()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7)
        figure.supxlabel(SHOWN["cpu_s"][0])
        figure.supylabel(SHOWN["average_precision"][0])
        return saved(figure)["png"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the picture beside the file of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="what benchmarks/wrong_labels.py printed")
    parser.add_argument("--scale", default=PAPER, help="how large: a name or the path of a .yaml file (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    scale = load_scale(chosen.scale)
    results = read_results(load_spec("wrong_labels"), scale, open_source(Path("paper_tables") / FOLDER, scale))
    lines = [json.loads(line) for line in chosen.lines.read_bytes().splitlines()]
    before = [{"column": line["column"], "what": "as annotated", "right_after": line["right_before"]} for line in lines]
    mean = means([*before, *of_runs(results), *lines])
    shown = {heading: (mean[name] * factor).map(f"{{:{form}}}".format) for name, (heading, factor, form, _) in SHOWN.items()}
    texts = pd.DataFrame({"images": mean["column"], "list": mean["what"], **shown}).replace("nan", "").sort_values("images", kind="stable")
    name = chosen.lines.stem
    page = [
        "# Finding wrong labels: runs and peers",
        "",
        *disclaimer_lines(scale),
        NOTES,
        f"![Average precision against CPU seconds]({name}.png)",
        "",
        *grid_lines(texts.columns.tolist(), texts.to_numpy().tolist(), left=2),
        "",
        f"Made by `python benchmarks/wrong_labels_page.py {chosen.lines} --scale {scale.name}`.",
        "",
    ]
    write_files(chosen.lines.parent, {f"{name}.md": "\n".join(page).encode(), f"{name}.png": picture(mean)})


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
