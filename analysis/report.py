"""One HTML page with every table and figure, the deviations and a browser of labels, that needs no other file and no network.

The same runs give the same bytes: no clock, no path of this machine and no random id goes into the page. What comes from run folders
and specs is text, never HTML, and the page's own policy lets no script run but the one that is written here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files as package_files
from pathlib import Path
from string import Template

from analysis.page import Files
from analysis.report_images import TrainingSetOf
from analysis.report_labels import SIZES, Browser, Size, browse
from analysis.report_markdown import render_markdown
from analysis.report_overview import Section, make_sections, overview, provenance
from analysis.report_trajectories import rule
from repro.errors import UserError

#: No page is larger.
LIMIT_BYTES = 25_000_000

_PAPER = "Nidhi Vyas, Shreyas Saxena, Thomas Voice: Learning Soft Labels via Meta Learning. 2020."
_PAPER_URL = "https://arxiv.org/abs/2009.09496"


def make_report(
    pages: Sequence[Files],
    runs: Path,
    *,
    deviations: str,
    command: str,
    training_set_of: TrainingSetOf | None = None,
    runs_link: str = "runs",
    limit_bytes: int = LIMIT_BYTES,
) -> bytes:
    """Return the page as HTML in UTF-8.

    Args:
        pages: the tables and figures, in the order in which they are shown.
        runs: where the run folders and their plans lie.
        deviations: the Markdown of docs/deviations.md.
        command: how this page is made again, as its footer says.
        training_set_of: :meth:`analysis.images.TrainingSets.of`; without it labels are shown without images and names of classes.
        runs_link: how the page reaches ``runs`` from where it will lie.
        limit_bytes: the page's size; labels of fewer instances and epochs are shown until it fits, and the page says so.

    Raises:
        UserError: there is nothing to show, no plan of a spec in ``runs``, or too much even without any labels.
    """
    if not pages:
        raise UserError("there is no table and no figure to report: name at least one spec.")
    sections = make_sections(pages, runs)
    link = _relative(runs_link)
    browser = browse({item.files.spec.name: item.cells for item in sections}, runs, training_set_of)
    parts = {
        "title": "Learning Soft Labels via Meta Learning: reproduction report",
        "paper": escape(_PAPER),
        "paper_url": escape(_PAPER_URL),
        "stamp": _stamp(sections),
        "contents": "".join(f'<li><a href="#{item.anchor}">{escape(item.title)}</a></li>' for item in sections),
        "overview": overview(sections),
        "sections": "".join(_section(item, link) for item in sections),
        "deviations": render_markdown(deviations, name="deviations", images={}, below=2),
        "problems": _problems(browser),
        "command": escape(command),
        "css": _asset("report.css"),
        "script": _asset("report.js"),
        "script_sha256": base64.b64encode(hashlib.sha256(_asset("report.js").encode()).digest()).decode("ascii"),
    }
    for size in SIZES:
        data = browser.payload(size, link=link)
        page = _page(parts, _rule(browser, size), data)
        if len(page) <= limit_bytes:
            return page
    without = f"The labels of {len(browser.shown)} runs are left out: with them the page would have more than {_megabytes(limit_bytes)}."
    page = _page(parts, f"<p>{without}</p>", json.dumps({"runs": []}))
    if len(page) > limit_bytes:
        raise UserError(
            f"tables and figures alone take {_megabytes(len(page))}, allowed are {_megabytes(limit_bytes)}: make reports of fewer specs."
        )
    return page


def _page(parts: dict[str, str], labels_rule: str, data: str) -> bytes:
    return Template(_asset("report.html")).substitute(parts, rule=labels_rule, data=data).encode()


def _asset(name: str) -> str:
    return (package_files("analysis") / "assets" / name).read_text(encoding="utf-8")


def _relative(link: str) -> str:
    """Return ``link`` without a slash at its end; a colon or a slash at its beginning would lead out of the folders around the page.

    Raises:
        UserError: it is no relative link.
    """
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:|/|\\", link):
        raise UserError(f"'{link}' is no link to the run folders that a page can hold: give it relative to the page, such as ../runs.")
    return link.rstrip("/") or "."


def _stamp(sections: Sequence[Section]) -> str:
    stamps = dict.fromkeys(item.files.spec.scale.stamp for item in sections if item.files.spec.scale.stamp)
    return "".join(f'<p class="stamp"><strong>Not the paper\'s scale.</strong> {escape(stamp)}</p>' for stamp in stamps)


def _section(section: Section, link: str) -> str:
    body = render_markdown(section.files.page, name=section.title, images=section.files.contents, below=2)
    title = f"{section.anchor}-title"
    return (
        f'<section id="{section.anchor}" aria-labelledby="{title}"><h2 id="{title}">{escape(section.title)}</h2>\n'
        f"{body}{provenance(section, link)}</section>\n"
    )


def _problems(browser: Browser) -> str:
    if not browser.problems:
        return ""
    return f'<div class="problems"><p>Not shown:</p><ul>{"".join(f"<li>{escape(text)}</li>" for text in browser.problems)}</ul></div>'


def _rule(browser: Browser, size: Size) -> str:
    if not browser.shown:
        return "<p>No finished run of these tables and figures has recorded labels.</p>"
    texts = [
        f"{len(browser.shown)} runs: of each cell the first finished repeat with recorded labels, or the first of the runs whose labels it "
        f"reads. {rule()}"
    ]
    if size != SIZES[0]:
        epochs = "all epochs" if size.epochs is None else f"at most {size.epochs} evenly spaced epochs"
        texts.append(f"Reduced to keep the page small: at most {size.per_group} instances of each group, {epochs}.")
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
