"""The published numbers of a spec: a CSV of a line each, which the spec names in ``reported: {file: NAME}``."""

from __future__ import annotations

import csv
import io
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, FiniteFloat, TypeAdapter, ValidationError

from analysis.reading.stats import rounded
from repro.errors import did_you_mean
from sweeps.spec import Spec
from sweeps.yaml_files import SpecError


class Reported(BaseModel):
    """A published number: of which row and column, with its spread, unit and source; ``own_run``: whether its source ran it itself."""

    row: str
    column: str
    mean: FiniteFloat
    sd: Annotated[FiniteFloat | None, BeforeValidator(lambda text: text or None)]
    unit: str
    own_run: bool
    source: str

    @property
    def text(self) -> str:
        """The number as a page prints it: ``91.2 ± 0.3``."""
        return " ± ".join(rounded(value, 1.0, self._digits(value)) for value in (self.mean, self.sd) if value is not None)

    @property
    def tolerance(self) -> float:
        """How far from it a reproduction may be: its spread, and at least what rounding alone can do."""
        return max(self.sd or 0.0, 0.5 * 10.0 ** -self._digits(self.mean))

    def _digits(self, value: float) -> int:
        # At least one in percent, where 60.0 is read as 60.
        return max(1 if self.unit == "percent" else 0, len(f"{value:.9f}".rstrip("0").partition(".")[2]))


def read_reported(spec: Spec) -> dict[tuple[str, str], Reported]:
    """Return the published numbers of ``spec`` by row and column; none where it names no file.

    Raises:
        SpecError: the file cannot be read; a line is of no cell of the spec, or given twice.
    """
    if spec.reported is None:
        return {}
    path = spec.path.parent / spec.reported.file
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
        published = TypeAdapter(list[Reported]).validate_python(lines)
    except (OSError, ValidationError) as error:
        raise SpecError(f"{path}: {error}") from error
    labels = {"row": [line.label for line in spec.row_lines], "column": [line.label for line in spec.column_lines]}
    if spec.kind == "figure":
        labels["column"] += [panel.label for panel in spec.panels]
    found: dict[tuple[str, str], Reported] = {}
    for item in published:
        for kind, label in (("row", item.row), ("column", item.column)):
            if label not in labels[kind]:
                raise SpecError(f"{path}: {spec.name} has no {kind} '{label}'.{did_you_mean(label, labels[kind])}")
        if (item.row, item.column) in found:
            raise SpecError(f"{path}: row '{item.row}', column '{item.column}' is given twice. Keep one.")
        found[item.row, item.column] = item
    return found
