"""Markdown pages as parts of one HTML page: no raw HTML, no resource from outside, tables that scroll in boxes of their own."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

_NOTES = "How to read this: method, software, cost"


def data_uri(content: bytes, kind: str) -> str:
    """Return ``content`` as a ``data:`` URI of that media type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def render_markdown(text: str, *, name: str, images: Mapping[str, bytes]) -> str:
    """Return the HTML of a Markdown text for a section with a heading of level 2, without its own first heading of level 1.

    HTML inside the text is shown as text. An image is put into the page as the SVG of its name in ``images``; where there is none, its
    description stands there. A link to a file is replaced by its text: the page does not know where it will lie. What follows a rule
    (``---``), the notes of a generated page, is folded. ``name`` is what its tables are called for those who hear the page.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    # In the tab order, so that the box can be scrolled from the keyboard.
    box = f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(f"Table: {name}")}"><table>\n'
    parser.add_render_rule("table_open", lambda *arguments: box)
    parser.add_render_rule("table_close", lambda *arguments: "</table></div>\n")
    tokens = parser.parse(text)
    if tokens and tokens[0].tag == "h1":
        tokens = tokens[3:]  # open, inline, close
    for index, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, max(2, int(token.tag[1])) + 1)}"
        elif token.type == "th_open":
            token.attrSet("scope", "col")
        elif token.type == "tr_open" and tokens[index + 1].type == "td_open":
            # The first cell of a row is its heading: open, inline, close.
            tokens[index + 1].attrSet("scope", "row")
            tokens[index + 1].tag = tokens[index + 3].tag = "th"
        _keep_inside(token.children or [], images)
    end = next((index for index, token in enumerate(tokens) if token.type == "hr"), len(tokens))
    results, notes = (str(parser.renderer.render(part, parser.options, {})) for part in (tokens[:end], tokens[end + 1 :]))
    return results + (f'<details class="notes"><summary>{_NOTES}</summary>\n{notes}</details>\n' if notes else "")


def _keep_inside(tokens: list[Token], images: Mapping[str, bytes]) -> None:
    """Put images into the page, and leave of a link that does not lead to the web only its text."""
    to_web = False
    for token in tokens:
        if token.type == "image":
            picture = images.get(str(token.attrGet("src")).rpartition(".")[0] + ".svg")
            if picture is None:
                token.type, token.content = "html_inline", f"<em>[image: {escape(token.content)}]</em>"
            else:
                token.attrs = {"class": "figure", "alt": "", "src": data_uri(picture, "image/svg+xml")}
        elif token.type == "link_open":
            to_web = str(token.attrGet("href") or "").startswith(("https://", "http://"))
            if to_web:
                token.attrSet("rel", "noopener noreferrer")
        if token.type in ("link_open", "link_close") and not to_web:
            token.tag, token.attrs = "span", {}
