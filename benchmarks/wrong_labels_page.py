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

#: What is shown of each list, how it is called, its factor and its decimals.
SHOWN = {
    "cpu_s": ("CPU seconds", 1.0, 0),
    "average_precision": ("average precision (%)", 100.0, 1),
    "auroc": ("AUROC (%)", 100.0, 1),
    "false_negative_rate": ("missed (%)", 100.0, 1),
    "right_after": ("right labels (%)", 100.0, 1),
}

#: Lines of the peers in the picture; each has a point for each number of epochs.
LINES = {"cleanlab": "k.-", "nearest neighbours": "k.:"}

NOTES = """\
Means over the seeds. *missed* is the share of wrong labels that is not found where as many images are flagged as are wrong (false negative
rate); *right labels* those after relabelling by the rule of each. A CPU second is one of one thread, with two runs at a time; in a list of
several runs it is the sum of theirs. Instance labels, L2RW and Meta-Weight-Net read the clean meta images while they train, and the rule
for relabelling is chosen on them; the peers train on them as further images, where there are others to choose the number of epochs on.
Co-teaching is told the share of wrong labels. *chosen* is the number of epochs whose networks predict the clean validation images best.
"""


def of_runs(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a line for each finished run of the spec, with what :data:`SHOWN` names, as ``benchmarks/wrong_labels.py`` prints them."""
    for cell in results.cells:
        for run_id in results.done(cell):
            run = results.runs.loc[run_id]
            measured = {name: run[f"doubt/{'right_labels' if name == 'right_after' else name}@last"] for name in list(SHOWN)[1:]}
            yield {"column": cell.column, "what": cell.row, "cpu_s": run["cpu_s"], **measured}


def means(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Return the mean of each column and list, in the order of ``lines``; of each peer, that of the best number of epochs is marked."""
    frame = pd.DataFrame(lines)
    mean = frame.groupby(["column", "what"], sort=False).mean(numeric_only=True).reset_index()
    peer = mean["what"].str.split(",").str[0]
    best = mean.dropna(subset="val_accuracy").groupby(["column", peer])["val_accuracy"].idxmax()
    mean.loc[best, "what"] += ", chosen"
    return mean


def picture(mean: pd.DataFrame) -> bytes:
    """Return average precision against CPU seconds as PNG, a panel a column."""
    columns = list(dict.fromkeys(mean["column"]))
    mean = mean.dropna(subset="cpu_s")
    others = [what for what in dict.fromkeys(mean["what"]) if not what.startswith(tuple(LINES))]
    with matplotlib.style.context(STYLES, after_reset=True):
        figure = Figure(figsize=(10, 1 + 2.4 * -(-len(columns) // 4)), layout="constrained")
        panels = figure.subplots(-(-len(columns) // 4), 4, squeeze=False, sharex=True).ravel()
        for axes, column in zip(panels, columns, strict=False):
            found = mean[mean["column"] == column]
            for peer, look in LINES.items():
                points = found[found["what"].str.startswith(peer)].sort_values("cpu_s")
                axes.plot(points["cpu_s"], 100 * points["average_precision"], look, label=f"{peer}, by epochs")
            for what, marker in zip(others, "osDv^<>P*X", strict=False):
                point = found[found["what"] == what]
                axes.plot(point["cpu_s"], 100 * point["average_precision"], marker, linestyle="", label=what)
            axes.set_title(column, fontsize=8)
        ticks = [lead * 10**power for power in range(5) for lead in (1, 2, 5)]
        panels[0].set_xscale("log")
        panels[0].set_xticks(ticks, map(str, ticks))
        panels[0].set_xlim(mean["cpu_s"].min() / 1.2, mean["cpu_s"].max() * 1.2)
        panels[0].minorticks_off()
        for axes in panels[len(columns) :]:
            axes.set_axis_off()
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7)
        figure.supxlabel(SHOWN["cpu_s"][0])
        figure.supylabel(SHOWN["average_precision"][0])
        return saved(figure)["png"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page and the picture beside the file of lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lines", type=Path, help="what benchmarks/wrong_labels.py printed")
    parser.add_argument("--scale", default=PAPER, help="how large: a name or the path of a .yaml file (default: %(default)s)")
    parser.add_argument("--runs", type=Path, default=Path("paper_tables") / FOLDER, help="run folders or evidence (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    scale = load_scale(chosen.scale)
    results = read_results(load_spec("wrong_labels"), scale, open_source(chosen.runs, scale))
    lines = [json.loads(line) for line in chosen.lines.read_text(encoding="utf-8").splitlines()]
    before = [{"column": line["column"], "what": "as annotated", "right_after": line["right_before"]} for line in lines]
    mean = means([*before, *of_runs(results), *lines])
    shown = {name: (mean[name] * factor).map(f"{{:.{decimals}f}}".format) for name, (_, factor, decimals) in SHOWN.items()}
    texts = pd.DataFrame({"column": mean["column"], "what": mean["what"], **shown}).replace("nan", "")
    table = grid_lines(
        ["images", "list", *(name for name, *_ in SHOWN.values())], texts.sort_values("column", kind="stable").to_numpy().tolist(), left=2
    )
    name = chosen.lines.stem
    made = f"Made by `python benchmarks/wrong_labels_page.py {chosen.lines} --scale {scale.name}`."
    page = [
        "# Finding wrong labels: runs and peers",
        "",
        *disclaimer_lines(scale),
        NOTES,
        "",
        f"![]({name}.png)",
        "",
        *table,
        "",
        made,
        "",
    ]
    write_files(chosen.lines.parent, {f"{name}.md": "\n".join(page).encode(), f"{name}.png": picture(mean)})


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
