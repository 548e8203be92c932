"""The rows of a run's ``metrics.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from repro.runs.folder import parse_metrics


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of ``folder``; a last line that a kill cut short is left out, a missing file is no rows."""
    path = folder / "metrics.jsonl"
    return parse_metrics(path.read_bytes()) if path.exists() else []
