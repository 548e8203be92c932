"""All finished runs as two tidy tables, for a notebook or a plotting tool: ``runs.parquet`` and ``curves.parquet``.

``runs.parquet`` has a row for each run that is done: run_id, commit, versions, cost, every setting (``config.<key>``), every result
(``final.<metric>.<rule>``). ``curves.parquet`` has a row for each run, epoch and metric. Both lie in ``<runs>/collected``. A second
call reads only the folders whose files changed. The tables of the paper do not read these files; they read the run folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pj
import pyarrow.parquet as pq

from analysis.runs import Run, read_rows, read_run
from repro.errors import UserError
from repro.files import number, write_atomically

FOLDER = "collected"

#: Raised when the columns change; files of another layout are made anew.
STORE_SCHEMA = 2

#: Folders beside the runs that are none.
_OTHERS = frozenset({FOLDER, "plans", "logs", "pages", "aside"})

#: What a run's rows are made from; a change of size or time of one of them is a change of the run.
_FILES = ("status.json", "manifest.json", "identity.json", "final.json", "provenance.json", "cost.json", "metrics.jsonl")

_CURVES = pa.schema(
    [
        ("run_id", pa.dictionary(pa.int32(), pa.string())),
        ("epoch", pa.int32()),
        ("metric", pa.dictionary(pa.int32(), pa.string())),
        ("value", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Store:
    """What a call of :func:`refresh` found.

    Attributes:
        runs: ``runs.parquet``.
        curves: ``curves.parquet``.
        done: how many runs stand in them.
        read: how many of these were read by this call; the others had not changed.
        left_out: folder name -> why it does not stand in them.
    """

    runs: Path
    curves: Path
    done: int
    read: int
    left_out: dict[str, str]


def refresh(folder: Path) -> Store:
    """Bring ``<folder>/collected`` up to date with the runs in ``folder``, and say what stands in it and what was left out and why.

    Raises:
        UserError: there is no such folder, or it cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder. Set --runs or $REPRO_RUNS to the folder of the run folders.")
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in _OTHERS and not path.name.startswith("."))
    runs = [read_run(folder / name) for name in names]
    left_out = {run.run_id: f"{run.state}: {run.problem}" for run in runs if not run.done}
    marks = {run.run_id: _fingerprint(run.folder) for run in runs if run.done}
    target = folder / FOLDER
    store = (target / "runs.parquet", target / "curves.parquet")
    old = _Old(store[1])
    changed = [name for name, mark in marks.items() if old.marks.get(name) != mark]
    if changed or old.marks.keys() != marks.keys() or not store[0].exists():
        try:
            target.mkdir(exist_ok=True)
            damaged = _write_curves(store[1], [run for run in runs if run.done], marks, old)
            left_out |= damaged
            table = _runs_table([run for run in runs if run.done and run.run_id not in damaged])
            write_atomically(store[0], lambda file: pq.write_table(table, file))
        except OSError as error:
            raise UserError(f"{target} cannot be written: {error.strerror}. Set --runs to a folder you can write.") from error
    else:
        left_out |= old.damaged
    return Store(*store, done=len(marks) - len(left_out.keys() & marks.keys()), read=len(changed), left_out=left_out)


def _fingerprint(folder: Path) -> str:
    found = ((folder / name).stat() for name in _FILES if (folder / name).exists())
    return ",".join(f"{item.st_size}:{item.st_mtime_ns}" for item in found)


class _Old:
    """What ``curves.parquet`` holds already: a row group for each run. Nothing, where there is no such file or it is of another layout.

    Attributes:
        marks: run_id -> fingerprint of its files when it was read.
        damaged: run_id -> why its curves could not be read then.
    """

    def __init__(self, path: Path) -> None:
        self.marks: dict[str, str] = {}
        self.damaged: dict[str, str] = {}
        self._groups: dict[str, int] = {}
        try:
            self._file = pq.ParquetFile(path)
            noted = json.loads((self._file.metadata.metadata or {})[b"soft_labels"])
        except (OSError, pa.ArrowException, KeyError, ValueError):
            return
        if noted["schema"] == STORE_SCHEMA:
            self.marks, self.damaged = noted["marks"], noted["damaged"]
            self._groups = {name: index for index, name in enumerate(noted["groups"])}

    def curves(self, name: str) -> pa.Table:
        """Return the curves of a run in :attr:`marks`."""
        return self._file.read_row_group(self._groups[name])


def _write_curves(path: Path, runs: Sequence[Run], marks: dict[str, str], old: _Old) -> dict[str, str]:
    """Write ``curves.parquet``, one run at a time in memory, and return run_id -> why its curves cannot be read."""
    damaged: dict[str, str] = {}
    groups: list[str] = []

    def curves() -> Iterable[pa.Table]:
        for run in runs:
            name = run.run_id
            if old.marks.get(name) == marks[name]:
                if name in old.damaged:
                    damaged[name] = old.damaged[name]
                    continue
                table = old.curves(name)
            else:
                try:
                    table = _read(run)
                except UserError as error:
                    damaged[name] = f"unreadable: {error}"
                    continue
            groups.append(name)
            yield table

    def write(file: Any) -> None:
        # Values of training hardly repeat, so a dictionary of them would cost time and save nothing.
        with pq.ParquetWriter(file, _CURVES, use_dictionary=["run_id", "metric"], compression="zstd") as writer:
            for table in curves():
                writer.write_table(table, row_group_size=max(1, table.num_rows))
            noted = {"schema": STORE_SCHEMA, "marks": marks, "damaged": damaged, "groups": groups}
            writer.add_key_value_metadata({"soft_labels": json.dumps(noted, sort_keys=True)})

    write_atomically(path, write)
    return damaged


def _read(run: Run) -> pa.Table:
    """Return the curves of ``run``: metric after metric, epochs in order; epoch 0 is the untrained model.

    Raises:
        DamagedError: its metrics.jsonl is not what the run wrote.
    """
    try:
        assert run.manifest is not None, "only runs that are done are read"
        curves = _read_fast(run.manifest.read_bytes("metrics.jsonl"))
    except pa.ArrowException:
        # A non-finite number, which is a string in it.
        curves = _read_any(run)
    metrics = list(curves)
    lengths = [len(epochs) for epochs, _ in curves.values()]
    epochs = [epochs for epochs, _ in curves.values()] or [np.zeros(0, dtype=np.int32)]
    values = [values for _, values in curves.values()] or [np.zeros(0)]
    codes = np.repeat(np.arange(len(metrics), dtype=np.int32), lengths)
    return pa.table(
        {
            "run_id": pa.DictionaryArray.from_arrays(np.zeros(len(codes), dtype=np.int32), pa.array([run.run_id], pa.string())),
            "epoch": np.concatenate(epochs),
            "metric": pa.DictionaryArray.from_arrays(codes, pa.array(metrics, pa.string())),
            "value": np.concatenate(values),
        },
        schema=_CURVES,
    )


_Curves = dict[str, tuple[np.ndarray[Any, np.dtype[np.int32]], np.ndarray[Any, np.dtype[np.float64]]]]


def _read_fast(text: bytes) -> _Curves:
    """Return metric -> (epochs, values) of a metrics.jsonl whose numbers are all finite."""
    wide = pj.read_json(pa.BufferReader(text))
    epochs = wide["epoch"].cast(pa.int32()).to_numpy()
    curves: _Curves = {}
    for name in sorted(set(wide.column_names) - {"epoch"}):
        column = wide[name]
        present = column.is_valid().to_numpy()
        curves[name] = epochs[present], column.drop_null().cast(pa.float64()).to_numpy()
    return curves


def _read_any(run: Run) -> _Curves:
    """Return metric -> (epochs, values), whatever the numbers."""
    found: dict[str, dict[int, float]] = {}
    for row in read_rows(run):
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                found.setdefault(name, {})[epoch] = number(value)
    return {name: (np.fromiter(found[name], dtype=np.int32), np.fromiter(found[name].values(), dtype=np.float64)) for name in sorted(found)}


def _runs_table(runs: Sequence[Run]) -> pa.Table:
    """Return a row for each run."""
    rows = [_row(run) for run in runs]
    fixed = list(_row(Run("", "done", "", Path())))
    names = [*fixed, *sorted({name for row in rows for name in row} - set(fixed))]
    return pa.table({name: _column([row.get(name) for row in rows], text=name in _TEXTS) for name in names})


#: Columns that are text also where no run has one.
_TEXTS = ("run_id", "ended", "git_sha", "dirty_sha256", "code_sha256", "torch", "device", "processor", "cpu_capability")


def _row(run: Run) -> dict[str, Any]:
    git = run.provenance.get("git") or {}
    attempts = run.provenance.get("attempts") or [{"facts": {}}]
    facts = attempts[-1]["facts"]
    return {
        "run_id": run.run_id,
        "ended": run.ended,
        "git_sha": git.get("sha"),
        "dirty_sha256": git.get("dirty_sha256"),
        "code_sha256": run.provenance.get("code"),
        "torch": (run.provenance.get("versions") or {}).get("torch"),
        "device": run.provenance.get("device"),
        "processor": facts.get("processor"),
        "cpu_capability": facts.get("cpu_capability"),
        "threads": run.provenance.get("threads"),
        "wall_s": run.cost.get("wall_s"),
        "gpu_hours": run.cost.get("gpu_hours"),
        "peak_gib": run.cost.get("peak_gib"),
        **{f"config.{key}": value for key, value in run.fields.items()},
        **{f"final.{metric}.{rule}": value for metric, values in run.final.items() for rule, value in values.items()},
    }


def _column(values: Sequence[Any], *, text: bool) -> pa.Array:
    """Return a column: of numbers, of truth values or of text where all are; of JSON where runs differ or have lists."""
    kinds = {type(value) for value in values if value is not None}
    if text or kinds == {str}:
        return pa.array(values, pa.string())
    if kinds == {bool}:
        return pa.array(values, pa.bool_())
    if kinds == {int}:
        return pa.array(values, pa.int64())
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([None if value is None else json.dumps(value, sort_keys=True) for value in values], pa.string())
