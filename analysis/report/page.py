"""One HTML page with every table and figure, the deviations and a browser of labels, that needs no other file and no network.

The same runs give the same bytes: no clock, no path of this machine and no random id goes into the page. What comes from run folders
and specs is text, never HTML, and the page's own policy lets no script run but the one that is written here.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files as package_files
from typing import Any

import jinja2
import pandas as pd

from analysis.reading.results import Results
from analysis.report.labels import RULE, browse
from analysis.report.markdown import render_markdown
from analysis.tables.page import Files
from repro.errors import UserError


def make_report(pages: Sequence[tuple[Results, Files]], *, deviations: str, command: str, runs_link: str) -> bytes:
    """Return the page as HTML in UTF-8. Of a table or figure none of whose runs has been started only the name is shown.

    Args:
        pages: the tables and figures, in the order in which they are shown.
        deviations: the Markdown of docs/deviations.md.
        command: how this page is made again, as its footer says.
        runs_link: how the page reaches the run folders from where it will lie, relative.

    Raises:
        UserError: there is nothing to show.
    """
    if not pages:
        raise UserError("there is no table and no figure to report: name at least one spec.")
    sections = []
    for results, files in pages:
        name = f"{results.spec.name}: {results.spec.title}"
        text, notes = render_markdown(files.page, name=name, images=files.contents)
        runs = results.runs.to_dict("index")
        sections.append(
            {"name": name, "spec": results.spec, "cells": results.cells, "runs": runs, "html": text, "notes": notes} | _counts(results.runs)
        )
    data, problems = browse([results for results, _ in pages])
    everything = pd.concat([results.runs[["run_id", "state", "wall_s", "gpu_hours"]] for results, _ in pages]).drop_duplicates("run_id")
    script = _asset("report.js")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_asset("report.html"))
    page = template.render(
        sections=[section for section in sections if set(section["states"]) != {"missing"}],
        waiting=[section for section in sections if set(section["states"]) == {"missing"}],
        everything=_counts(everything),
        disclaimers=dict.fromkeys(results.scale.disclaimer for results, _ in pages if results.scale.disclaimer),
        deviations=render_markdown(deviations, name="deviations", images={})[0],
        data=data,
        problems=problems,
        rule=RULE,
        command=command,
        link=runs_link,
        css=_asset("report.css"),
        script=script,
        script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    )
    return page.encode()


def _asset(name: str) -> str:
    return (package_files("analysis") / "assets" / name).read_text(encoding="utf-8")


def _counts(runs: pd.DataFrame) -> dict[str, Any]:
    """Return how far runs are, and what those that are done cost."""
    done = runs[runs["state"] == "done"]
    states = dict(sorted(runs["state"].value_counts().items()))
    return {"total": len(runs), "states": states, "hours": done["wall_s"].sum() / 3600, "gpu_hours": done["gpu_hours"].sum()}
