"""Markdown pages as parts of one HTML page: no raw HTML, no resource from outside, tables that scroll in boxes of their own."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markupsafe import Markup


def render_markdown(text: str, *, name: str, images: Mapping[str, bytes]) -> tuple[Markup, Markup]:
    """Return the HTML of a Markdown text for a section with a heading of level 2, and that of its notes, what follows a rule (``---``).

    Its own heading of level 1 is left out, HTML inside it is shown as text. An image is put into the page as the PNG of its name in
    ``images``. A link to a file is replaced by its text: the page does not know where it will lie. ``name`` is what its tables are called
    for those who hear the page.
    """
    text = re.sub(r"^#", "##", re.sub(r"\A# .*\n", "", text), flags=re.MULTILINE)
    text = re.sub(r"(?<!!)\[([^\]]*)\]\((?!https?:)[^)]*\)", r"\1", text)
    text = re.sub(r"(!\[[^\]]*\])\((.*?)\)", lambda found: f"{found[1]}(data:image/png;base64,{_base64(images[found[2]])})", text)
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # In the tab order, so that the box can be scrolled from the keyboard.
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(f"Table: {name}")}"><table>\n'
    parser.add_render_rule("table_open", lambda *arguments: box)
    parser.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    results, _, notes = text.partition("\n---\n")
    return Markup(parser.render(results)), Markup(parser.render(notes))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
