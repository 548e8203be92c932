"""What the curve panels show: mean and spread over the runs, epoch by epoch, of a line for each row or for each class of a row."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence

from analysis.figures.points import Point, cells_of, chosen, how_chosen, kept_of, make_point
from analysis.reading.images import name_of, training_set_of
from analysis.reading.reported import read_reported
from analysis.reading.results import Cell, Results
from analysis.reading.stats import Summary, factor, summarize
from repro.errors import UserError
from sweeps.spec import PAPER, Panel

#: Classes that a panel shows where its spec says nothing.
MOST_CLASSES = 10
_START = re.compile(r"(\d+(?:\.\d+)?) at the start")


def curve_points(results: Results) -> list[Point]:
    """Return every point of every line: a line has one for each epoch that any of its runs has, NaN where another has no value there."""
    points = []
    for panel in (panel for panel in results.spec.panels if panel.type == "curve"):
        for cell in cells_of(results, panel):
            if "{k}" not in panel.metric:
                points += _line(results, panel, cell, panel.metric, label=cell.row)
                continue
            numbers = classes_of(results, panel)
            for number, name in zip(numbers, _names(results, cell, numbers), strict=True):
                of_class = {"class": number, "class_name": name, "label": f"{cell.row}: {name}"}
                points += _line(results, panel, cell, panel.metric.replace("{k}", f"{number:03d}"), **of_class)
    return points + (_published(results) if results.scale.name == PAPER else [])


def _line(results: Results, panel: Panel, cell: Cell, metric: str, **more: object) -> list[Point]:
    curves = results.curves[(results.curves["metric"] == metric) & results.curves["run_id"].isin(cell.run_ids)]
    points = []
    for epoch, values in curves.pivot(index="epoch", columns="run_id", values="value").iterrows():
        summary = summarize(values.tolist(), expected=len(cell.run_ids))
        points.append(make_point(results, panel, cell, summary, metric=metric, epoch=epoch, **more))
    return points


def classes_of(results: Results, panel: Panel) -> list[int]:
    """Return the classes that a panel shows: those it lists, else some of those that all runs have in all panels with classes.

    So panels with the same ``{count, seed}`` show the same classes.
    """
    families = tuple(other.metric.removesuffix("{k}") for other in results.spec.panels if "{k}" in other.metric)
    series = results.curves.loc[results.curves["metric"].str.startswith(families), ["run_id", "metric"]].drop_duplicates()
    series[["family", "class"]] = series["metric"].str.rsplit("/", n=1, expand=True).reindex(columns=[0, 1])
    of_runs = series.groupby(["run_id", "family"])["class"].agg(set)
    candidates = sorted(map(int, set.intersection(*of_runs))) if len(of_runs) else []
    return candidates[:MOST_CLASSES] if panel.classes is None else chosen(panel.classes, candidates)


def _names(results: Results, cell: Cell, numbers: Sequence[int]) -> list[str]:
    """Return the names of classes in the dataset of a cell, as evidence keeps them, else from the dataset where it is on this machine."""
    names: Sequence[str] = ()
    for run_id in results.done(cell)[:1]:
        if kept := kept_of(results, run_id).get("class_names"):
            return [kept[str(number)] for number in numbers]
        with contextlib.suppress(UserError):
            names = training_set_of(results.source.record(run_id)).class_names
    return [name_of(names, number) for number in numbers]


def _published(results: Results) -> list[Point]:
    """Return the published numbers as fractions: those at the end of the curves, and where a source says ``40 at the start`` that one."""
    points = []
    published = read_reported(results.spec)
    for panel in results.spec.panels:
        for cell in cells_of(results, panel):
            if item := published.get((cell.row, panel.label)):
                start = _START.search(item.source)
                for epoch, value in (*([("start", float(start[1]))] if start else []), ("end", item.mean)):
                    number = Summary(0, 0, 0, value * (0.01 if item.unit == "percent" else 1.0), None)
                    more = {"metric": panel.metric, "epoch": epoch, "source": "published", "label": "published", "note": item.source}
                    points.append(make_point(results, panel, cell, number, **more) | dict.fromkeys(("n", "expected", "diverged")))
    return points


def curve_notes(results: Results, points: Sequence[Point]) -> list[str]:
    """Return how to read the curves, for the page."""
    panels = {panel.label: panel for panel in results.spec.panels if panel.type == "curve"}
    if not panels:
        return []
    metrics = ", ".join(f"`{panel.metric}`" for panel in panels.values())
    notes = [f"Lines: mean of {metrics} over the runs, after each completed epoch; epoch 0 is the untrained model. Bands: mean ± spread."]
    notes.append("(2/3): of the three runs of a line two are done and have the metric. div (1/3): one diverged, where the line ends.")
    for panel in panels.values():
        if "{k}" in panel.metric:
            shown = {point["class"]: point["class_name"] for point in points if point["panel"] == panel.label}
            how = how_chosen(panel.classes or range(MOST_CLASSES), "the classes that all runs have")
            notes.append(f"Classes of {panel.label}: {', '.join(f'{name} ({k})' for k, name in shown.items()) or 'none yet'}; {how}.")
    for point in points:
        if point["source"] == "published":
            value = point["mean"] * factor(panels[point["panel"]].scale)
            notes.append(f"Published: {point['panel']}, {point['row']}: {value:g} at the {point['epoch']} ({point['note']}).")
    return notes
