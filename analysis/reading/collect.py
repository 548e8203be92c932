"""The tables of finished runs and their curves as files, for a notebook or a plotting tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.reading.evidence import Source
from analysis.reading.runs import curves_frame, runs_frame


def write_tables(source: Source, folder: Path) -> pd.DataFrame:
    """Write ``runs.parquet`` and ``curves.parquet`` to ``folder``, and return all runs, of which the files have those that are done."""
    runs = runs_frame(map(source.record, source.run_ids()))
    done = runs[runs["state"] == "done"]
    curves = curves_frame({run_id: source.columns(run_id) for run_id in done.index})
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({name: _column(done[name]) for name in done}).to_parquet(folder / "runs.parquet", index=False)
    curves.astype({"run_id": "category", "metric": "category"}).to_parquet(folder / "curves.parquet", index=False)
    return runs


def _column(values: pd.Series[Any]) -> pd.Series[Any]:
    """Return a column with one type: numbers, truth values or text where all are; JSON where runs differ or have lists."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds in ({str}, {bool}):
        return values.infer_objects()
    return values.map(lambda value: None if value is None else json.dumps(value, sort_keys=True))
