"""Markdown pages as parts of one HTML page: no raw HTML, no resource from outside, tables that scroll in boxes of their own."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup


def render_markdown(text: str, *, name: str, images: Mapping[str, bytes]) -> tuple[Markup, Markup]:
    """Return the HTML of a Markdown text for a section with a heading of level 2, and that of its notes, what follows a rule (``---``).

    Its own heading of level 1 is left out, HTML inside it is shown as text. An image is put into the page as the SVG of its name in
    ``images``. A link to a file is replaced by its text: the page does not know where it will lie. ``name`` is what its tables are called
    for those who hear the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # In the tab order, so that the box can be scrolled from the keyboard.
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(f"Table: {name}")}"><table>\n'
    parser.add_render_rule("table_open", lambda *arguments: box)
    parser.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    tokens = parser.parse(text)
    if tokens and tokens[0].tag == "h1":
        tokens = tokens[3:]  # open, inline, close
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{int(token.tag[1]) + 1}"
        _keep_inside(token.children or [], images)
    end = next((index for index, token in enumerate(tokens) if token.type == "hr"), len(tokens))
    results, notes = (Markup(parser.renderer.render(part, parser.options, {})) for part in (tokens[:end], tokens[end + 1 :]))
    return results, notes


def _keep_inside(tokens: list[Token], images: Mapping[str, bytes]) -> None:
    """Put images into the page, and leave of a link that does not lead to the web only its text."""
    to_web = False
    for token in tokens:
        if token.type == "image":
            picture = images.get(str(token.attrGet("src")).rpartition(".")[0] + ".svg", b"")
            token.attrs = {"class": "figure", "alt": "", "src": f"data:image/svg+xml;base64,{base64.b64encode(picture).decode()}"}
        elif token.type == "link_open":
            to_web = str(token.attrGet("href")).startswith(("https://", "http://"))
        if token.type in ("link_open", "link_close") and not to_web:
            token.tag, token.attrs = "span", {}
