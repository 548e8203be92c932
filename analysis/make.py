"""The files of a spec, whatever its kind."""

from __future__ import annotations

from pathlib import Path

from analysis.page import Files
from sweeps.spec import FigureSpec, RecipeSpec, Spec, TableSpec


def make_files(spec: Spec, runs: Path) -> Files:
    """Return the files of a table, figure or table of settings from the run folders in ``runs``.

    Raises:
        UserError: there is no plan of this spec in ``runs``, or what it names cannot be shown.
    """
    if isinstance(spec, TableSpec):
        from analysis.tables import make_table

        return make_table(spec, runs)
    if isinstance(spec, RecipeSpec):
        from analysis.recipe import make_recipe

        return make_recipe(spec, runs)
    assert isinstance(spec, FigureSpec)
    # matplotlib takes a second to import.
    from analysis.figures import make_figure

    return make_figure(spec, runs)
