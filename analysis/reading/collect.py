"""The tables of finished runs and their curves as files, for a notebook or a plotting tool."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.reading.evidence import Source
from analysis.reading.runs import curves_frame, runs_frame


def write_tables(source: Source, folder: Path) -> pd.DataFrame:
    """Write ``runs.csv`` and ``curves.csv.gz`` to ``folder``, and return all runs, of which the files have those that are done."""
    runs = runs_frame(map(source.record, source.run_ids))
    done = runs[runs["state"] == "done"]
    folder.mkdir(parents=True, exist_ok=True)
    done.to_csv(folder / "runs.csv", index=False)
    curves_frame({run_id: source.columns(run_id) for run_id in done.index}).to_csv(folder / "curves.csv.gz", index=False)
    return runs
