"""What W&B gets of a run folder. All of it comes from the folder's files, so a run can be mirrored during training and ever after."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from repro.config import NOT_SCIENTIFIC
from repro.errors import UserError
from repro.files import jsonable, number, read_json
from repro.manifest import open_manifest
from repro.rundir import damage, parse_metrics, read_state

#: Counts, which stay whole numbers; every other metric is a float.
WHOLE = ("epoch", "step")


class Contents:
    """A run folder as W&B sees it.

    Attributes:
        folder: the run folder.
        run_id: its name, and the id of the W&B run.
        config: every scientific setting, nested as in ``config.yaml``, with ``provenance`` and the ``identity`` as one text.
        tracker: the settings of the mirror that the run was started with.
        epochs: how many it trains.
    """

    def __init__(self, folder: Path) -> None:
        """Read what stands in the folder from its first attempt on.

        Raises:
            UserError: it is no run folder, one of these files cannot be read, or the run is done and they are not what it wrote.
        """
        self.folder = folder
        state = read_state(folder)
        if state == "damaged":
            raise UserError(f"{damage(folder)} What is damaged is not mirrored.")
        self._manifest = open_manifest(folder) if state == "done" else None
        try:
            settings = yaml.safe_load(self._bytes("config.yaml"))
            identity = json.loads(self._bytes("identity.json"))
            provenance = json.loads(self._bytes("provenance.json"))
            self.run_id = str(identity["run_id"])
            self.tracker: dict[str, Any] = dict(settings["tracker"])
            self.epochs = int(settings["optim"]["epochs"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{folder} is no run folder that can be mirrored: {error}. Name folders made by `python -m repro`.") from error
        self.config: dict[str, Any] = {name: value for name, value in settings.items() if name not in NOT_SCIENTIFIC}
        # Text, so that its dotted names and its numbers come back as they are.
        self.config |= {"provenance": provenance, "identity": json.dumps(identity, sort_keys=True)}

    @property
    def group(self) -> str:
        """The runs that differ in seed and fold only."""
        return "/".join(str((self.config.get(section) or {}).get("name")) for section in ("dataset", "method", "noise"))

    def _bytes(self, name: str) -> bytes:
        """Return what a file holds; of a finished run, what the run wrote."""
        return (self.folder / name).read_bytes() if self._manifest is None else self._manifest.read_bytes(name)

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``, so far.

        Raises:
            UserError: the run is done and they are not what it wrote.
        """
        try:
            return parse_metrics(self._bytes("metrics.jsonl"))
        except FileNotFoundError:
            return []

    def results(self) -> dict[str, dict[str, float]] | None:
        """Return what ``final.json`` holds, or ``None`` before the run is finished."""
        try:
            stored = json.loads(self._bytes("final.json"))
        except (FileNotFoundError, ValueError):
            return None
        return {metric: {rule: number(value) for rule, value in values.items()} for metric, values in stored.items()}

    def truth_sha256(self) -> str:
        """Return the sha256 of ``metrics.jsonl``."""
        try:
            return hashlib.sha256(self._bytes("metrics.jsonl")).hexdigest()
        except FileNotFoundError:
            return hashlib.sha256(b"").hexdigest()

    def summary(self, results: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
        """Return the summary of a finished run: each result by its rule as one plain name, and what a copy is checked by."""
        plain = {name: values[rule] for metric, values in results.items() for rule, name in summary_names(metric).items() if rule in values}
        status = self._json("status.json")
        return plain | {
            "truth_rows": len(self.rows()),
            "truth_sha256": self.truth_sha256(),
            "final_json": json.dumps(jsonable(dict(results)), sort_keys=True),
            "attempts": int(status.get("attempt", 1)),
        }

    def attempt(self) -> int:
        """Return which start of the run this is, from 1."""
        return int(self._json("status.json").get("attempt", 1))

    def _json(self, name: str) -> dict[str, Any]:
        try:
            return dict(read_json(self.folder / name))
        except (OSError, ValueError, TypeError):
            return {}


def summary_names(metric: str) -> dict[str, str]:
    """Return rule -> name in the summary: letters, digits and underscores, the only names that W&B is sure to sort by."""
    plain = metric.replace("/", "_")
    return {"last": f"final_{plain}", "best_val": f"best_val_{plain}", "best_test": f"best_test_{plain}"}


def as_logged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``metrics.jsonl`` as it is logged: every number in full, so that a copy of the run has the same bytes."""
    return {name: int(value) if name in WHOLE else number(value) for name, value in row.items()}


def differences(truth: Mapping[str, Any], mirrored: Mapping[str, Any]) -> list[str]:
    """Return which metrics of a row are missing in its mirror or have another value there.

    The time of an epoch is not compared: an epoch that was repeated after a stop took another time.
    """
    found = []
    for name, value in as_logged(truth).items():
        if name.startswith("time/"):
            continue
        if name not in mirrored:
            found.append(f"{name} is missing")
        elif not _same(value, mirrored[name]):
            found.append(f"{name} is {mirrored[name]!r}, not {value!r}")
    return found


def _same(one: float, other: Any) -> bool:
    try:
        copy = number(other)
    except (TypeError, ValueError):
        return False
    return one == copy or (math.isnan(one) and math.isnan(copy))
