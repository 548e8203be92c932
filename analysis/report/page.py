"""One HTML page with every table and figure, the deviations and a browser of labels, that needs no other file and no network.

The same runs give the same bytes: no clock, no path of this machine and no random id goes into the page. What comes from run folders
and specs is text, never HTML, and the page's own policy lets no script run but the one that is written here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files as package_files
from typing import Any

import jinja2
import pandas as pd
from markdown_it import MarkdownIt
from markupsafe import Markup

from analysis.report.labels import browse
from analysis.tables.page import Files
from repro.errors import UserError


def make_report(pages: Sequence[Files], *, deviations: str, command: str, runs_link: str) -> bytes:
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
    for page in pages:
        results, name = page.results, f"{page.name}: {page.results.spec.title}"
        html, notes = render_markdown(page.page, name=name, images=page.contents)
        shown = {"cells": results.cells, "runs": results.runs.to_dict("index"), "html": html, "notes": notes}
        waiting = set(results.runs["state"]) == {"missing"}
        sections.append({"name": name, "waiting": waiting, **shown, **_counts(results.runs)})
    script = _asset("report.js")
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(_asset("report.html"))
        .render(
            sections=sections,
            everything=_counts(pd.concat([page.results.runs for page in pages]).drop_duplicates("run_id")),
            disclaimer=pages[0].results.scale.disclaimer,
            deviations=render_markdown(deviations, name="deviations", images={})[0],
            data=browse([page.results for page in pages]),
            command=command,
            link=runs_link,
            css=_asset("report.css"),
            script=script,
            script_sha256=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        )
        .encode()
    )


def _asset(name: str) -> str:
    return (package_files("analysis") / "assets" / name).read_text(encoding="utf-8")


def _counts(runs: pd.DataFrame) -> dict[str, Any]:
    """Return how far runs are, and what those that are done cost."""
    done, states = runs[runs["state"] == "done"], runs["state"].value_counts().sort_index().to_dict()
    return {"total": len(runs), "states": states, "hours": done["wall_s"].sum() / 3600, "gpu_hours": done["gpu_hours"].sum()}


def render_markdown(text: str, *, name: str, images: Mapping[str, bytes]) -> tuple[Markup, Markup]:
    """Return the HTML of a Markdown text for a section with a heading of level 2, and that of its notes, what follows a rule (``---``).

    Its own heading of level 1 is left out, HTML inside it is shown as text. An image is put into the page as the PNG of its name in
    ``images``. A link to a file is replaced by its text: the page does not know where it will lie. ``name`` is what its tables are called
    for those who hear the page.
    """
    text = re.sub(r"^#", "##", re.sub(r"\A# .*\n", "", text), flags=re.MULTILINE)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    for file, content in images.items():
        text = text.replace(f"]({file})", f"](data:image/png;base64,{base64.b64encode(content).decode()})")
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # In the tab order, so that the box can be scrolled from the keyboard.
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(f"Table: {name}")}"><table>\n'
    parser.add_render_rule("table_open", lambda *arguments: box)
    parser.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    results, _, notes = text.partition("\n---\n")
    return Markup(parser.render(results)), Markup(parser.render(notes))
