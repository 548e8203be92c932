"""The list of metrics as documentation: made from :data:`repro.metric_names.METRICS`, the one list that training and dashboards share."""

from __future__ import annotations

from repro.metric_names import METRICS, Metric
from repro.metrics import MAX_CLASS_SERIES


def table() -> str:
    """Return every metric as a Markdown table: its name, unit, direction, meaning, and where it stands."""
    lines = ["| name | unit | better | what it is | in metrics.jsonl |", "|---|---|---|---|---|"]
    lines += [
        f"| `{metric.name}` | {metric.unit} | {metric.better} | {_definition(metric)} | {'no' if metric.mirror_only else 'yes'} |"
        for metric in METRICS
    ]
    return "\n".join(lines) + "\n"


def _definition(metric: Metric) -> str:
    limit = f"; for up to {MAX_CLASS_SERIES} classes" if "{k}" in metric.name else ""
    return metric.definition.replace("|", "\\|") + limit
