"""All finished runs as two tidy tables, for a notebook or a plotting tool: ``runs.parquet`` and ``curves.parquet``.

``runs.parquet`` has a row for each run that is done: run_id, commit, versions, cost, every setting (``config.<key>``), every result
(``final.<metric>.<rule>``). ``curves.parquet`` has a row for each run, epoch and metric. Both lie in ``<runs>/collected``. The tables of
the paper do not read these files; they read the run folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.reading.runs import Run, read_run
from repro.errors import UserError
from repro.files import write_atomically

FOLDER = "collected"

#: Folders beside the runs that are none.
_OTHERS = frozenset({FOLDER, "plans", "logs", "pages", "aside"})

_NAME = pa.dictionary(pa.int32(), pa.string())
_CURVES = pa.schema([("run_id", _NAME), ("epoch", pa.int32()), ("metric", _NAME), ("value", pa.float64())])


@dataclass(frozen=True)
class Store:
    """The files that were written, how many runs stand in them, and why others do not, by the name of their folder."""

    runs: Path
    curves: Path
    done: int
    left_out: dict[str, str]


def write_store(folder: Path) -> Store:
    """Write the tables of the runs in ``folder`` to ``<folder>/collected``, and say what stands in them and what was left out and why.

    Raises:
        UserError: there is no such folder, or it cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Set --runs or $REPRO_RUNS to the folder of the run folders.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in _OTHERS and not path.name.startswith("."))
    runs = [read_run(folder / name) for name in names]
    left_out = {run.run_id: f"{run.state}: {run.problem}" for run in runs if not run.done}
    rows: list[dict[str, Any]] = []

    def curves() -> Iterator[pa.Table]:
        for run in runs:
            if run.done:
                try:
                    yield pa.Table.from_pandas(_curves(run), _CURVES, preserve_index=False)
                    rows.append(_row(run))
                except UserError as error:
                    left_out[run.run_id] = f"unreadable: {error}"

    def write_curves(file: Any) -> None:
        # Values of training hardly repeat, so a dictionary of them would cost time and save nothing. One run is in memory at a time.
        with pq.ParquetWriter(file, _CURVES, use_dictionary=["run_id", "metric"], compression="zstd") as writer:
            for table in curves():
                writer.write_table(table)

    target = folder / FOLDER
    paths = (target / "runs.parquet", target / "curves.parquet")
    try:
        target.mkdir(exist_ok=True)
        write_atomically(paths[1], write_curves)
        fixed = list(_row(Run("", "done", "", "")))
        names = [*fixed, *sorted({name for row in rows for name in row} - set(fixed))]
        table = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
        write_atomically(paths[0], lambda file: pq.write_table(table, file))
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}. Set --runs to a folder you can write.") from error
    return Store(*paths, len(rows), left_out)


def _curves(run: Run) -> pd.DataFrame:
    """Return the curves of ``run``: metric after metric, epochs in order; epoch 0 is the untrained model."""
    wide = pd.DataFrame(run.rows()).set_index("epoch").sort_index(axis="columns")
    # A number that is not finite is a string until here, so what is missing is what the row of an epoch does not have.
    values = wide.unstack().dropna().astype(float)
    assert isinstance(values, pd.Series)
    return values.rename("value").rename_axis(["metric", "epoch"]).reset_index().assign(run_id=run.run_id)


def _row(run: Run) -> dict[str, Any]:
    facts = (run.provenance.get("attempts") or [{"facts": {}}])[-1]["facts"]
    return {
        **{name: value for name, value in run.columns().items() if name not in ("state", "problem")},
        "code_sha256": run.provenance.get("code"),
        "processor": facts.get("processor"),
        "cpu_capability": facts.get("cpu_capability"),
        "threads": run.provenance.get("threads"),
        **{f"config.{key}": value for key, value in run.fields.items()},
        **{f"final.{metric}.{rule}": value for metric, values in run.final.items() for rule, value in values.items()},
    }


def _column(values: Sequence[Any]) -> pa.Array:
    """Return a column: of numbers, of truth values or of text where all are; of JSON where runs differ or have lists."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds <= {int, float} and kinds not in ({str}, {bool}):
        values = [None if value is None else json.dumps(value, sort_keys=True) for value in values]
    return pa.array(values)
