"""The rows, the columns and the single cells of a spec; groups of rows that have something in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, PlainValidator, ValidationInfo, model_validator

from sweeps.spec.data import Map
from sweeps.spec.models import EpochRule, Items, Line, Names, Placed, keys, mappings, validate
from sweeps.spec.runs import PART, Part, merge
from sweeps.spec.settings import SettingName

_Row = TypeVar("_Row", bound="Row")


class Row(Part):
    """A row or a column: its label, and what it says of its runs (once read, that of the run it uses included).

    Attributes:
        epoch: where this row's value is read, if not where the table's is.
        setting: what a row of a recipe shows.
    """

    hidden: ClassVar[tuple[str, ...]] = ("epoch", "setting")

    label: Line
    use: Placed | None = None
    epoch: EpochRule | None = None
    setting: SettingName | None = None


class TableRow(Row):
    """A row of a table."""

    hidden = ("setting",)


class RecipeRow(Row):
    """A row of a recipe."""

    hidden = ("epoch",)

    setting: SettingName


class CellRule(Part):
    """What holds for some cells only: what else their runs are, or the reason why they are left out."""

    rows: Names = Field(default=(), alias="row")
    columns: Names = Field(default=(), alias="column")
    use: Placed | None = None
    skip: Line | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if self.node is not None and any(key in self.node for key in PART) == (self.skip is not None):
            raise self.place.error(f"{self.node.name} needs either {', '.join(PART)}, or skip (the reason why the cell is left out).")
        return self


class _Group(Part):
    """What several rows or columns have in common."""

    use: Placed | None = None


class _RowGroup(_Group):
    rows: Items[Any]
    epochs: Annotated[dict[str, EpochRule], keys()] = Field(default={})


class _ColumnGroup(_Group):
    columns: Items[Any]


def lines(model: type[_Row], kind: str) -> PlainValidator:
    """Return what reads ``rows`` or ``columns`` (``kind``), each group replaced by the rows it holds.

    A group, ``{set: {...}, tuned: NAME, epochs: {NAME: RULE}, rows: [...]}``, says what its rows have in common. With ``epochs`` each
    of them is read at several epochs: a row ``LABEL, NAME`` for each, with an ``epoch`` of its own unless it is that of the table, the
    ``epoch`` of the context.
    """

    def read(value: object, info: ValidationInfo) -> tuple[_Row, ...]:
        found: list[_Row] = []
        for item in mappings(value):
            found += _rows(item, model, kind, info.context or {}) if kind in item else [validate(model, item, info.context)]
        return tuple(found)

    return PlainValidator(read)


def _rows(given: Map, model: type[_Row], kind: str, context: dict[str, Any]) -> Iterator[_Row]:
    group = validate(_RowGroup if kind == "rows" else _ColumnGroup, given, context)
    epochs = group.epochs if isinstance(group, _RowGroup) else {}
    if "epochs" in given and not epochs:
        raise given.error("epochs", "a mapping with at least one entry is needed.")
    for item in mappings(given[kind]):
        if kind in item:
            raise item.error(kind, "a group may hold no group. Take it out of the other.")
        row = validate(model, item, context)
        if row.use and group.use:
            raise item.error("use", f"the group says it too ({given.at['use']}). Say it in one place.")
        common = merge([("its group", group), (f"{kind[:-1]} '{row.label}'", row)])
        row = row.model_copy(update={**common.said, "use": row.use or group.use})
        if not epochs:
            yield row
            continue
        if "epoch" in item:
            raise item.error("epoch", f"the group says which epochs it is read at ({given.at['epochs']}). Say it in one place.")
        for name, rule in epochs.items():
            own = None if given["epochs"][name] == context.get("epoch") else rule
            yield row.model_copy(update={"label": f"{row.label}, {name}", "epoch": own})
