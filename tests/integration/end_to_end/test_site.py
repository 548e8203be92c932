"""`make docs`: built without a network and without a warning, every link leads somewhere, nothing is asked of another server."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_blocks import ROOT

MISSING = [name for name in ("sphinx", "myst_parser") if find_spec(name) is None]


class Page(HTMLParser):
    """The ids of a page, where its links lead, and what it loads by itself."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif tag in ("link", "script", "img", "iframe") and (address := values.get("href") or values.get("src")):
            (self.links if values.get("rel") in ("prev", "next", "index", "search", "author") else self.loaded).append(address)


def lost(folder: Path) -> Iterator[str]:
    pages = {path: Page(path) for path in folder.rglob("*.html")}
    for path, page in pages.items():
        for link in (*page.links, *page.loaded):
            address = urlsplit(link)
            if address.scheme or address.netloc:
                if link in page.loaded and address.scheme != "data":
                    yield f"{path.relative_to(folder)} loads {link}"
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            anchor = unquote(address.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].ids):
                yield f"{path.relative_to(folder)}: {link}"


def test_what_is_lost(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#here">x</a><a href="b.html#there">x</a><a href="c.html">x</a><img src="https://x/y">')
    (tmp_path / "b.html").write_text('<p id="here">x</p>')
    assert list(lost(tmp_path)) == ["a.html: b.html#there", "a.html: c.html", "a.html loads https://x/y"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} (pip install --constraint requirements.lock -e '.[docs]')")
def test_the_site_is_whole(tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    (options,) = re.findall(r"^\t\$\(BIN\)/python -m sphinx (.*) docs/_build$", makefile, re.MULTILINE)
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    built = subprocess.run(
        [sys.executable, "-m", "sphinx", *options.split(), str(tmp_path)], cwd=ROOT, env={**os.environ, **offline},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr[-5000:]
    assert (tmp_path / "docs/api/repro/repro.engine.lookahead.html").exists()
    assert list(lost(tmp_path)) == []
