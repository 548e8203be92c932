"""What W&B gets of a run folder. All of it comes from the folder's files, so a run can be mirrored during training and ever after."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.config.schema import NOT_SCIENTIFIC
from repro.errors import UserError
from repro.files import jsonable, number, try_read
from repro.runs.folder import parse_metrics
from repro.runs.manifest import read_bytes, sha256
from repro.runs.state import corruption, read_state

#: Which value of a metric in ``final.json`` -> the first word of its name in the summary.
_RULES = {"last": "final", "best_val": "best_val", "best_test": "best_test"}


class Contents:
    """A run folder as W&B sees it.

    Attributes:
        folder: the run folder.
        state: of the run, when it was looked at first; what is read later is of that moment or newer.
        run_id: its name, and the id of the W&B run.
        config: every scientific setting, nested as in ``config.yaml``, with ``provenance``.
        tracker: the settings of the mirror that the run was started with.
        attempt: which start of the run this is, from 1.
        epochs: how many it trains.
        title: the run in words, as W&B lists it, with the end of its id, since runs differ in more.
        group: the runs that differ in seed and fold only.
    """

    def __init__(self, folder: Path) -> None:
        """Read what stands in the folder from its first attempt on.

        Raises:
            UserError: it is no run folder, one of these files cannot be read, or the run is done and they are not what it wrote.
        """
        self.folder = folder
        self.state = read_state(folder)
        if self.state == "corrupted":
            raise UserError(f"{corruption(folder)} What is corrupted is not mirrored.")
        try:
            settings = yaml.safe_load(self._bytes("config.yaml"))
            provenance = json.loads(self._bytes("provenance.json"))
            self.run_id = str(json.loads(self._bytes("identity.json"))["run_id"])
            self.tracker: dict[str, Any] = dict(settings["tracker"])
            self.attempt = int(try_read(folder / "status.json", "attempt") or 1)
            self.epochs = int(settings["optim"]["epochs"])
            self.config: dict[str, Any] = {name: value for name, value in settings.items() if name not in NOT_SCIENTIFIC}
            self.config["provenance"] = provenance
            self.title = f"{_in_words(settings)} ({self.run_id[-6:]})"
            self.group = "/".join(settings[section]["name"] for section in ("dataset", "method", "noise"))
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{folder} is no run folder that can be mirrored: {error}. Name folders made by `python -m repro`.") from error

    def _bytes(self, name: str) -> bytes:
        return read_bytes(self.folder, name) if self.state == "done" else (self.folder / name).read_bytes()

    def metrics(self) -> bytes:
        """Return what ``metrics.jsonl`` holds, so far.

        Raises:
            UserError: the run is done and it is not what the run wrote.
        """
        try:
            return self._bytes("metrics.jsonl")
        except FileNotFoundError:
            return b""

    def summary(self) -> dict[str, Any]:
        """Return the summary of a finished run: each result under one plain name, and what its rows are checked by."""
        metrics, final = self.metrics(), json.loads(self._bytes("final.json"))
        results = {summary_name(metric, rule): number(value) for metric, values in final.items() for rule, value in values.items()}
        return results | {"metrics_rows": len(parse_metrics(metrics)), "metrics_sha256": sha256(metrics), "attempts": self.attempt}


def _in_words(settings: Mapping[str, Any]) -> str:
    noise, fold = settings["noise"], settings["split"].get("fold")
    parts = [settings["method"]["name"], settings["dataset"]["name"]]
    if noise["name"] != "none":
        parts.append(f"{noise['name']} {100 * noise['rate']:g}%" if "rate" in noise else noise["name"])
    if fold is not None:
        parts.append(f"fold {fold}")
    return ", ".join([*parts, f"seed {settings['seed']}"])


def summary_name(metric: str, rule: str) -> str:
    """Return the name of a result in the summary: letters, digits and underscores, the only names that W&B is sure to sort by."""
    return f"{_RULES.get(rule, rule)}_{metric.replace('/', '_')}"


def as_logged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``metrics.jsonl`` as it is logged: every number in full, counts as whole numbers and all else as floats."""
    return {name: int(value) if name in ("epoch", "step") else number(value) for name, value in row.items()}


def mismatch(rows: Sequence[Mapping[str, Any]], mirrored: Sequence[Mapping[str, Any]], *, finished: bool) -> str | None:
    """Return the first difference of the mirrored rows of a run from the first rows of its ``metrics.jsonl``; ``None``: there is none.

    An epoch that is missing in the middle, logged twice or out of order is a difference in the row where it should stand. Of a run that is
    not ``finished``, rows after the last are right: they come from an attempt that was killed, and the next one makes them again.
    """
    for row, copy in zip(rows, mirrored, strict=False):
        if row["epoch"] != number(copy["epoch"]):
            return f"epoch {copy['epoch']} where epoch {row['epoch']} should stand"
        for name, value in row.items():
            # An epoch that was repeated after a stop took another time.
            if jsonable(copy.get(name)) != jsonable(value) and not name.startswith("time/"):
                return f"epoch {row['epoch']}: {name} is {copy.get(name)!r}, not {value!r}"
    return f"{len(mirrored)} rows, and metrics.jsonl has {len(rows)}" if finished and len(mirrored) > len(rows) else None
