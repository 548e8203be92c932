"""The blocks of code of a Markdown page, and where its links lead."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]

_PARSER = MarkdownIt("commonmark").enable("table")
#: A paragraph such as "`tiny.yaml`:" before a block: the block is that file.
_FILE = re.compile(r"`([\w./-]+\.\w+)`:")


@dataclass(frozen=True)
class Block:
    """A block of code: ``kind`` is its language, or ``commands`` for an indented one; ``file`` the path that it is the content of."""

    kind: str
    text: str
    file: str | None
    line: int


def blocks(text: str) -> Iterator[Block]:
    before = ""
    for token in _PARSER.parse(text):
        if token.type == "inline":
            before = token.content
        elif token.type in ("fence", "code_block"):
            named = _FILE.fullmatch(before)
            # A command goes on in the line below a backslash.
            text = token.content if token.info else token.content.replace("\\\n", "")
            yield Block(token.info.strip() or "commands", text, named[1] if named else None, token.map[0] + 1)
            before = ""


def links(text: str) -> list[str]:
    """Return the targets of all links and pictures of a page."""
    return [str(target) for token in _flat(_PARSER.parse(text)) for target in (token.attrGet("href"), token.attrGet("src")) if target]


def anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    tokens = _PARSER.parse(text)
    titles = [after for token, after in pairwise(tokens) if token.type == "heading_open"]
    plain = ("".join(part.content for part in title.children or ()).lower() for title in titles)
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in plain}


def _flat(tokens: list[Token]) -> Iterator[Token]:
    for token in tokens:
        yield token
        yield from _flat(token.children or [])
