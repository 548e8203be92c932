"""What W&B gets of a run folder. All of it comes from the folder's files, so a run can be mirrored during training and ever after."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from repro.config.schema import NOT_SCIENTIFIC
from repro.errors import UserError
from repro.files import number, peek
from repro.runs.folder import parse_metrics
from repro.runs.manifest import read_bytes
from repro.runs.state import corruption, read_state


class Contents:
    """A run folder as W&B sees it.

    Attributes:
        folder: the run folder.
        state: of the run, when it was looked at first; what is read later is of that moment or newer.
        run_id: its name, and the id of the W&B run.
        config: every scientific setting, nested as in ``config.yaml``, with ``provenance``.
        tracker: the settings of the mirror that the run was started with.
        epochs: how many it trains.
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
            self.epochs = int(settings["optim"]["epochs"])
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
            raise UserError(f"{folder} is no run folder that can be mirrored: {error}. Name folders made by `python -m repro`.") from error
        self.config: dict[str, Any] = {name: value for name, value in settings.items() if name not in NOT_SCIENTIFIC}
        self.config["provenance"] = provenance

    @property
    def title(self) -> str:
        """The run in words, as W&B lists it: method, dataset, noise, fold, seed, and the end of its id, since runs differ in more."""
        method, dataset, noise, split = (self.config.get(name) or {} for name in ("method", "dataset", "noise", "split"))
        parts = [method.get("name"), dataset.get("name")]
        if noise.get("name") != "none":
            parts.append(f"{noise.get('name')} {100 * noise['rate']:g}%" if noise.get("rate") is not None else noise.get("name"))
        parts += [f"fold {split['fold']}"] if split.get("fold") is not None else []
        return ", ".join(map(str, [*parts, f"seed {self.config.get('seed')}"])) + f" ({self.run_id[-6:]})"

    @property
    def group(self) -> str:
        """The runs that differ in seed and fold only."""
        return "/".join(str((self.config.get(section) or {}).get("name")) for section in ("dataset", "method", "noise"))

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

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of ``metrics.jsonl``, so far."""
        return parse_metrics(self.metrics())

    def results(self) -> dict[str, dict[str, float]]:
        """Return what ``final.json`` holds; nothing before the run is finished."""
        try:
            stored = json.loads(self._bytes("final.json"))
        except (FileNotFoundError, ValueError):
            return {}
        return {metric: {rule: number(value) for rule, value in values.items()} for metric, values in stored.items()}

    def summary(self) -> dict[str, Any]:
        """Return the summary of a finished run: each result by its rule as one plain name, and what its rows are checked by."""
        results, metrics = self.results(), self.metrics()
        plain = {name: values[rule] for metric, values in results.items() for rule, name in summary_names(metric).items() if rule in values}
        return plain | {"truth_rows": len(parse_metrics(metrics)), "truth_sha256": sha256_of(metrics), "attempts": self.attempt()}

    def attempt(self) -> int:
        """Return which start of the run this is, from 1."""
        attempt = peek(self.folder / "status.json", "attempt")
        return attempt if isinstance(attempt, int) else 1


def sha256_of(metrics: bytes) -> str:
    """Return what the rows of a finished run are known by on the server."""
    return hashlib.sha256(metrics).hexdigest()


def summary_names(metric: str) -> dict[str, str]:
    """Return rule -> name in the summary: letters, digits and underscores, the only names that W&B is sure to sort by."""
    plain = metric.replace("/", "_")
    return {"last": f"final_{plain}", "best_val": f"best_val_{plain}", "best_test": f"best_test_{plain}"}


def as_logged(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of ``metrics.jsonl`` as it is logged: every number in full, counts as whole numbers and all else as floats."""
    return {name: int(value) if name in ("epoch", "step") else number(value) for name, value in row.items()}


def compare(truth: Sequence[Mapping[str, Any]], mirrored: Sequence[Mapping[str, Any]], *, finished: bool) -> list[str]:
    """Return what is wrong with the mirrored rows of a run: some missing, logged twice, out of order, or with other values.

    Of a run that is not ``finished``, rows after the last of the truth are right: they come from an attempt that was killed, and the next
    one makes them again.
    """
    expected = {int(row["epoch"]): row for row in truth}
    held = [int(number(row["epoch"])) for row in mirrored if "epoch" in row]
    problems = []
    if twice := sorted(epoch for epoch, count in Counter(held).items() if count > 1):
        problems.append(f"epochs {twice[:5]} more than once")
    elif held != sorted(held):
        problems.append("epochs out of order")
    if missing := sorted(expected.keys() - set(held)):
        problems.append(f"epochs {missing[:5]} missing")
    if finished and (surplus := sorted(set(held) - expected.keys())):
        problems.append(f"epochs {surplus[:5]} not in metrics.jsonl")
    for row in mirrored:
        for name, value in as_logged(expected.get(int(row.get("epoch", -1)), {})).items():
            # An epoch that was repeated after a stop took another time.
            if not name.startswith("time/") and not _same(value, row.get(name)):
                problems.append(f"epoch {row['epoch']}: {name} is {row.get(name)!r}, not {value!r}")
    return problems


def _same(one: float, other: Any) -> bool:
    try:
        copy = number(other)
    except (TypeError, ValueError):
        return False
    return one == copy or (math.isnan(one) and math.isnan(copy))
