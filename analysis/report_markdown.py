"""Markdown pages as parts of one HTML page: no raw HTML, no resource from outside, tables that scroll in boxes of their own."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from analysis.report_images import data_uri

#: A list inside a list with more items than this is folded away: the runs that are missing, say.
LONG_LIST = 8

#: In this order: lines and letters of an SVG stay sharp at any size.
_IMAGES = {".svg": "image/svg+xml", ".png": "image/png"}

#: An SVG above this size is shown as PNG where there is one: a figure that is mostly pixels gains nothing.
_SVG_BYTES = 1_000_000


def render_markdown(text: str, *, name: str, images: Mapping[str, bytes], below: int) -> str:
    """Return the HTML of a Markdown text without its first heading of level 1, which the caller shows.

    HTML inside the text is shown as text. An image is looked up in ``images`` by name and put into the page; one that is not there is
    replaced by its description. A link to a file is replaced by its text: the page does not know where it will lie.

    Args:
        text: the Markdown.
        name: what its tables are called for those who hear the page.
        images: file name -> content.
        below: the level of the heading that the text stands under; its own headings come below that.
    """
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Renderer).enable("table")
    tokens = _without_title(parser.parse(text))
    for index, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            level = int(token.tag[1])
            token.tag = f"h{min(6, max(level - 1, 1) + below)}"
        elif token.type == "table_open":
            token.meta["name"] = name
        elif token.type == "tr_open":
            _head_of_row(tokens, index)
    # html_block is how the tokens that fold a list are rendered; none comes out of the text, because html is False.
    return str(parser.renderer.render(_folded(tokens), parser.options, {"images": images}))


def _without_title(tokens: list[Token]) -> list[Token]:
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        return tokens[3:]  # open, inline, close
    return tokens


def _head_of_row(tokens: Sequence[Token], row: int) -> None:
    """Make the first cell of a row of the table's body a heading of that row, and give the cells of its head their scope."""
    cells = []
    for token in tokens[row + 1 :]:
        if token.type == "tr_close":
            break
        if token.type in ("td_open", "td_close", "th_open"):
            cells.append(token)
    for token in cells:
        if token.type == "th_open":
            token.attrSet("scope", "col")
    if len(cells) > 1 and cells[0].type == "td_open":
        cells[0].attrSet("scope", "row")
        cells[0].tag = cells[1].tag = "th"


def _folded(tokens: Sequence[Token]) -> list[Token]:
    """Return ``tokens`` with every long list inside a list folded away."""
    found: list[Token] = []
    for index, token in enumerate(tokens):
        if token.type == "bullet_list_open" and token.level > 0:
            count = _items(tokens[index:])
            if count > LONG_LIST:
                found.append(_raw(f"<details><summary>{count} entries</summary>\n"))
                token.meta["folded"] = True
        found.append(token)
        if token.type == "bullet_list_close" and token.level > 0 and _opened_by(tokens, index).meta.get("folded"):
            found.append(_raw("</details>\n"))
    return found


def _items(tokens: Sequence[Token]) -> int:
    level, count = tokens[0].level, 0
    for token in tokens[1:]:
        if token.level == level and token.type == "bullet_list_close":
            break
        count += token.type == "list_item_open" and token.level == level + 1
    return count


def _opened_by(tokens: Sequence[Token], close: int) -> Token:
    return next(token for token in reversed(tokens[:close]) if token.type == "bullet_list_open" and token.level == tokens[close].level)


def _raw(text: str) -> Token:
    return Token("html_block", "", 0, content=text)


def _content(path: PurePosixPath, images: Mapping[str, bytes]) -> tuple[bytes, str] | None:
    """Return the image of that name with its media type, in the best form that there is."""
    found = {suffix: images[name] for suffix in _IMAGES if (name := str(path.with_suffix(suffix)) if path.name else "") in images}
    if len(found) > 1 and len(found[".svg"]) > _SVG_BYTES:
        del found[".svg"]
    return next(((content, _IMAGES[suffix]) for suffix, content in found.items()), None)


def _outside(token: Token) -> bool:
    return str(token.attrGet("href") or "").startswith(("https://", "http://"))


class _Renderer(RendererHTML):
    """Renders tokens; what it does otherwise than the usual renderer is said at :func:`render_markdown`."""

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Return an image with its content."""
        token = tokens[idx]
        text = html.escape(token.content)
        found = _content(PurePosixPath(str(token.attrGet("src") or "")), env["images"])
        if found is None:
            return f"<em>[image: {text}]</em>"
        return f'<img class="figure" alt="{text}" src="{data_uri(*found)}">'

    def link_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Begin a link to a page of the web; of another one only the text stays."""
        href = html.escape(str(tokens[idx].attrGet("href") or ""))
        return f'<a href="{href}" rel="noopener noreferrer">' if _outside(tokens[idx]) else "<span>"

    def link_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """End what :meth:`link_open` began."""
        # Links hold no links, so the nearest one that opens is this one's.
        opened = next(token for token in reversed(tokens[:idx]) if token.type == "link_open")
        return "</a>" if _outside(opened) else "</span>"

    def table_open(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """Begin a table and its box."""
        name = html.escape(f"Table: {tokens[idx].meta['name']}")
        # In the tab order, so that the box can be scrolled from the keyboard.
        return f'<div class="scroll" role="region" tabindex="0" aria-label="{name}"><table>\n'

    def table_close(self, tokens: Sequence[Token], idx: int, options: Any, env: Any) -> str:
        """End a table and its box."""
        return "</table></div>\n"
