"""The site of `make docs`: every page of Markdown, and the API reference from the docstrings. It is built without a network."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "soft-labels-repro"
author = "The soft-labels-repro maintainers"
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "paper_tables/**"]
exclude_patterns = ["docs/_build"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.apidoc"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
apidoc_modules = [
    {"path": str(ROOT / package), "destination": f"docs/api/{package}", "separate_modules": True}
    for package in ("repro", "sweeps", "slurm", "analysis")
]
napoleon_use_ivar = True
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True, "ignore-module-all": True}
myst_heading_anchors = 4
suppress_warnings = [
    "myst.header",  # generated pages begin below the first level of headings
    "ref.python",  # a type that is imported for checking alone is known by its short name, which two classes may have
]

html_theme = "alabaster"
html_theme_options = {"description": "Learning Soft Labels via Meta Learning, reproduced", "fixed_sidebar": True, "page_width": "1100px"}
html_show_sourcelink = False
