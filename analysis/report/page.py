"""One HTML page with every table and figure, the deviations and a browser of labels, that needs no other file and no network.

The same runs give the same bytes: no clock, no path of this machine and no random id goes into the page. What comes from run folders
and specs is text, never HTML, and the page's own policy lets it ask for nothing.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
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
        html, notes = render_markdown(page.page, page.contents)
        runs, states = page.results.runs.to_dict("index"), _states(page.results.runs)
        sections.append({"page": page, "runs": runs, "states": states, "waiting": [*states] == ["missing"], "html": html, "notes": notes})
    return (
        jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
        .from_string(asset("report.html"))
        .render(
            sections=sections,
            everything=_states(pd.concat([page.results.runs for page in pages]).drop_duplicates("run_id")),
            disclaimer=pages[0].results.scale.disclaimer,
            deviations=render_markdown(deviations, {})[0],
            data=browse([page.results for page in pages]),
            command=command,
            link=runs_link,
            css=asset("report.css"),
            script=asset("report.js"),
        )
        .encode()
    )


def asset(name: str) -> str:
    """Return an asset of this package as text."""
    return (package_files("analysis") / "assets" / name).read_text(encoding="utf-8")


def _states(runs: pd.DataFrame) -> dict[Any, int]:
    """Return how many runs are in each state."""
    return runs["state"].value_counts().sort_index().to_dict()


def render_markdown(text: str, images: Mapping[str, bytes]) -> tuple[Markup, Markup]:
    """Return the HTML of a Markdown text for a section with a heading of level 2, and that of its notes, what follows a rule (``---``).

    Its own heading of level 1 is left out, HTML inside it is shown as text. An image is put into the page as the PNG of its name in
    ``images``. A link to a file is replaced by its text: the page does not know where it will lie.
    """
    text = re.sub(r"^#", "##", re.sub(r"\A# .*\n", "", text), flags=re.MULTILINE)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    for file, content in images.items():
        text = text.replace(f"]({file})", f"](data:image/png;base64,{base64.b64encode(content).decode()})")
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    results, _, notes = text.partition("\n---\n")
    return Markup(parser.render(results)), Markup(parser.render(notes))
