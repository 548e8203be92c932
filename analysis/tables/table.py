"""A table: its page in Markdown, its numbers as CSV, and which runs stand behind each cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from analysis.reading.reported import Reported, read_reported
from analysis.reading.results import Results
from analysis.reading.runs import FACTS
from analysis.reading.stats import MIN_TESTED, Summary, factor, holm, interval, render, rounded, summarize, welch
from analysis.tables.page import Files, csv_bytes, grid_lines, notes, provenance, spread_note, table_files
from repro.errors import UserError
from repro.metric_names import definition_of
from sweeps.scales import PAPER
from sweeps.spec import Reading

#: Below this adjusted p value a difference is marked.
SIGNIFICANT = 0.05

_INTERVAL = ("interval_low", "interval_high")

_RULES = {
    "last": "after the last epoch (`last`)",
    "best_val": "at the epoch of the best validation accuracy (`best_val`)",
    "best_test": "at the epoch of the best test accuracy (`best_test`; this looks at the test set and flatters every method)",
}


#: A line of ``cells.csv``: the place of a cell, its :class:`~analysis.reading.stats.Summary`, what stands in the page, what is published.
Line = dict[str, Any]


def table_lines(results: Results) -> list[Line]:
    """Return the cells of a table, row by row.

    ``interval_low`` and ``interval_high`` are the 95% t interval of the mean, of a fraction cut at 0 and 1; ``best``: whether the mean is
    the best of its column; ``p_from_first_row``: Holm-adjusted, of the difference from the first row; ``gap`` and ``verdict``: to the
    published number (:func:`_compare`).

    Raises:
        UserError: a published number is in another unit.
    """
    spec, reading, reported = results.spec, results.spec.value, read_reported(results.spec)
    lines = []
    first: dict[str, Summary] = {}
    p_values: dict[int, float] = {}
    for index, cell in enumerate(results.cells):
        rule = results.rule(cell)
        values = results.values(cell, reading.metric, rule)
        summary = summarize([value for value in values if value is not None], expected=len(values))
        low, high = interval(summary) or (None, None)
        if low is not None and high is not None and definition_of(reading.metric).unit == "fraction":
            low, high = max(low, 0.0), min(high, 1.0)
        text = render(summary, factor=factor(reading.scale), decimals=reading.decimals)
        published = reported.get(cell.place)
        gap, verdict = _compare(results, summary, published) if reported else (None, None)
        line = {"spec": spec.name, "row": cell.row, "column": cell.column, "metric": reading.metric, "epoch_rule": rule, **vars(summary)}
        line |= {"interval_low": low, "interval_high": high, "text": text, "best": False, "p_from_first_row": None}
        line |= {"gap": gap, "verdict": verdict}
        line |= {f"published_{key}": getattr(published, key, None) for key in ("mean", "sd", "unit", "own_run", "source")}
        lines.append(line | {"left_out": cell.skip})
        p_value = welch(summary, first.setdefault(cell.column, summary))
        if cell.row != results.cells[0].row and p_value is not None and reading.better != "neither":
            p_values[index] = p_value
    for index, adjusted in zip(p_values, holm(list(p_values.values())), strict=True):
        lines[index]["p_from_first_row"] = adjusted
    for column in spec.column_lines if reading.better != "neither" else ():
        _mark_best([line for line in lines if line["column"] == column.label and line["expected"]], reading)
    return lines


def make_table(results: Results) -> Files:
    """Return the files of a table; raises what :func:`table_lines` raises."""
    lines, reported = table_lines(results), read_reported(results.spec)
    copied = {source: f"[{index}]" for index, source in enumerate(_sources(lines, own_run=False), start=1)}
    marks = [" †" * (line["p_from_first_row"] is not None and line["p_from_first_row"] < SIGNIFICANT) for line in lines]
    shown = [(line["text"] + mark, line["best"]) for line, mark in zip(lines, marks, strict=True)]
    closing = notes(results, read=list(_how_to_read(results, lines, copied)), doubt=list(_what_to_doubt(lines)), command="tables")
    files = table_files(results, shown, _beside(results.spec.value, lines, reported, copied), closing, lines)
    more = {"runs.csv": csv_bytes(_run_rows(results, lines)), "provenance.json": provenance(results)}
    return Files(results, files.contents | {f"{files.name}.{kind}": content for kind, content in more.items()})


def _sources(lines: Sequence[Line], *, own_run: bool) -> list[str]:
    return list(dict.fromkeys(line["published_source"] for line in lines if line["published_own_run"] is own_run))


def _mark_best(lines: Sequence[Line], reading: Reading) -> None:
    """Mark the best mean of a column, as printed; none where cells are not all there, or where there is only one."""
    if len(lines) > 1 and all(line["n"] == line["expected"] and not line["diverged"] for line in lines):
        means = [float(line["text"].split()[0]) for line in lines]
        top = max(means) if reading.better == "higher" else min(means)
        for line, mean in zip(lines, means, strict=True):
            line["best"] = mean == top


def _compare(results: Results, summary: Summary, published: Reported | None) -> tuple[float | None, str | None]:
    """Return the gap to a published number, our mean minus it in its unit, and the verdict; no gap unless all our runs are done and finite.

    Raises:
        UserError: the published number is in another unit than the table.
    """
    reading = results.spec.value
    if published is None:
        return None, "no published number" if summary.complete else None
    if published.unit != reading.scale:
        raise UserError(f"{results.spec.path}: {published.row} is published in {published.unit}, the table is in {reading.scale}.")
    if results.scale.name != PAPER:
        return None, "another scale"
    if summary.mean is None or not summary.complete:
        return None, "not run" if summary.n == 0 else "diverged" if summary.diverged else "incomplete"
    gap = summary.mean * factor(reading.scale) - published.mean
    return gap, "within" if abs(gap) <= published.tolerance + 1e-9 else "outside"


def _beside(reading: Reading, lines: Sequence[Line], reported: Mapping[tuple[str, str], Reported], copied: Mapping[str, str]) -> list[str]:
    body = []
    for line in (line for line in lines if line["verdict"]):
        place = line["row"], line["column"]
        bounds = [rounded(line[key], factor(reading.scale), reading.decimals) for key in _INTERVAL if line[key] is not None]
        published = f"{reported[place].text} {copied.get(reported[place].source, '')}".rstrip() if place in reported else "—"
        gap = "—" if line["gap"] is None else f"{line['gap']:+.{reading.decimals}f}"
        body.append([*place, line["text"], " to ".join(bounds) or "—", published, gap, line["verdict"]])
    return grid_lines(["", "", "ours", "95% interval", "published", "gap", "verdict"], body, left=2) if body else []


def _how_to_read(results: Results, lines: Sequence[Line], copied: Mapping[str, str]) -> Iterator[str]:
    reading = results.spec.value
    rules = {line["row"]: _RULES.get(line["epoch_rule"], f"after {line['epoch_rule']}") for line in lines}
    common = max(rules.values(), key=list(rules.values()).count)
    yield f"Value: `{reading.metric}`{', in percent' * (reading.scale == 'percent')}, {common}."
    yield from (f"The row {row}: {rule}." for row, rule in rules.items() if rule != common)
    yield f"{spread_note(results)} (n/N): n of its N runs are done. div (d/n): d of n diverged, so there is no mean."
    if any(line["best"] for line in lines):
        yield "Bold: the best mean, as printed, of a column whose runs are all done; it does not mean a significant difference."
    if count := sum(line["p_from_first_row"] is not None for line in lines):
        yield (
            f"†: differs from {lines[0]['row']} in the same column: Welch's t test, two-sided, p < {SIGNIFICANT} after Holm's "
            f"correction for the {count} comparisons of this page; cells with fewer than {MIN_TESTED} runs are not tested."
        )
    if any(line["published_source"] for line in lines):
        yield (
            "95% interval: of our mean, over its runs. Gap: our mean minus the published one. Verdict: `within` when the gap is at most "
            "the published ± (at least half of the last digit), else `outside`."
        )
    yield from (f"{note}: not measured by the paper. {source}." for source, note in copied.items())
    yield from (f"Published: {source}." for source in _sources(lines, own_run=True))


def _what_to_doubt(lines: Sequence[Line]) -> Iterator[str]:
    if any(line["p_from_first_row"] is not None and line["n"] == MIN_TESTED for line in lines):
        # The difference of two means of three, divided by the published SD, is t_2 times sqrt(2/3), and P(abs(t_2) > sqrt(3/2)) is 0.35.
        yield (
            "What n = 3 can show: two cells of equal spread must differ by 2.3 standard deviations to be marked, before any correction; no "
            "mark does not mean no difference. Of exact reproductions, 35 in 100 would be outside by chance."
        )


def _run_rows(results: Results, lines: Sequence[Line]) -> list[dict[str, Any]]:
    facts: dict[Any, dict[Any, Any]] = results.runs[list(FACTS)].to_dict("index")
    return [
        {key: line[key] for key in ("spec", "row", "column", "metric", "epoch_rule")} | repeat | {"value": value} | facts[run_id]
        for cell, line in zip(results.cells, lines, strict=True)
        for run_id, repeat, value in zip(cell.run_ids, cell.repeats, results.values(cell, line["metric"], line["epoch_rule"]), strict=True)
    ]


def make_recipe(results: Results) -> Files:
    """Return the files of a table of settings."""
    published, rows = read_reported(results.spec), []
    for cell in results.cells:
        item, text = published.get(cell.place), _text(cell.value)
        row = {"spec": results.spec.name, "row": cell.row, "column": cell.column, "value": cell.value, "text": text}
        row |= dict.fromkeys(("published", "verdict", "source")) | {"left_out": cell.skip}
        if item is not None:
            verdict = "another scale" if results.scale.name != PAPER else "same" if text == _text(item.mean) else "differs"
            row |= {"published": _text(item.mean), "verdict": verdict, "source": item.source}
        rows.append(row)
    body = [[str(row[key]) for key in ("row", "column", "text", "published", "verdict")] for row in rows if row["verdict"]]
    beside = grid_lines(["", "", "ours", "published", "verdict"], body, left=2) if body else []
    read = ["Ours: what `python -m repro` trains with when a spec says nothing else. What is not in the list is not published."]
    read += [f"Published: {source}." for source in dict.fromkeys(item.source for item in published.values())]
    closing = notes(results, read=read, doubt=[], command="tables")
    return table_files(results, [(str(row["text"]), False) for row in rows], beside, closing, rows)


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    return "—" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
