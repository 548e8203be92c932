"""The claims of the paper as data: what each says in our words, and which numbers of which runs support or contradict it.

``sweeps/claims.yaml``::

    level: 0.05                                     # of all claims together: each is tested at this level divided by their number
    scales: [paper, small]                          # where they are tested, each by itself
    claims:
      - id: clean                                   # a word
        claim: Learned labels do better than one-hot labels.
        source: section 3.2, Table 1                # where the paper says so
        direction: higher                           # what the difference must be: higher or lower than the margin
        combine: mean                               # of all comparisons (default); every: each one must hold by itself
        margin: 0.0                                 # optional, in the unit of the difference; default 0
        published: 40 to 33                         # optional: the paper's numbers, where they stand in no table
        tests: [...]
    sanity: [...]                                   # the same, for what must hold before anything is concluded

A test is one of these; ``columns`` are all unless they are given::

    - {spec: table1, rows: [Ours (Class)], over: [Baseline], columns: [..]}    # a row minus another one, for each pair and column
    - {spec: table4, rows: [..], columns: [Ours (Model)], over_columns: [Baseline]}        # a column minus another one, in each row
    - {spec: figure4, rows: [..], change: noise/label_error}                   # the last epoch minus the first recorded, in each run
    - {spec: figure2, rows: [..], metric: label/entropy, above: 0.04}          # the value after the last epoch, minus a constant
    - {spec: figure2, rows: [..], correlation: ["one/{k}", "other/{k}"]}       # Spearman's over the classes, after the last epoch
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PlainValidator, ValidationInfo, model_validator

from repro.errors import did_you_mean, one_of
from repro.metric_names import METRICS, definition_of
from sweeps.spec.data import Text
from sweeps.spec.load import FigureSpec, RecipeSpec, TableSpec, known_scales, known_specs, load_spec
from sweeps.spec.loader import existing, load, read_file
from sweeps.spec.models import AnyText, Finite, Items, Line, Metric, MetricFamily, Model, Names, choose, matching, validate

FILE = Path(__file__).with_name("claims.yaml")

#: What a test can look at; each test has exactly one of these.
KINDS = ("over", "over_columns", "change", "above", "correlation")

_Specs = dict[str, TableSpec | FigureSpec]
_KnownSpec = Annotated[Text, PlainValidator(lambda value: choose(value, known_specs()))]
_KnownScale = Annotated[Text, PlainValidator(lambda value: choose(value, known_scales()))]


class Test(Model):
    """One comparison, or the same one for several rows and columns.

    Attributes:
        spec, rows, columns: whose cells; of a figure without columns, ``columns`` is one empty label.
        over: the rows that ``rows`` are compared with.
        over_columns: the columns that ``columns`` are compared with.
        metric: of which the value after the last epoch is compared with ``above``.
    """

    spec: _KnownSpec
    rows: Names
    columns: Names = ()
    metric: Metric = ""
    over: Names = ()
    over_columns: Names = ()
    change: Metric = ""
    above: Finite = 0.0
    correlation: Items[MetricFamily] = ()

    @property
    def kind(self) -> str:
        """Which of :data:`KINDS` it is."""
        return next(kind for kind in KINDS if kind in self.model_fields_set)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What is read: one name; two series of a correlation; nothing for a table's own."""
        return self.correlation or tuple(name for name in (self.change, self.metric) if name)

    @model_validator(mode="after")
    def _means_something(self, info: ValidationInfo) -> Self:
        name = self.node.name if self.node else "test"
        kinds = [kind for kind in KINDS if kind in self.model_fields_set]
        if len(kinds) != 1:
            raise self.place.error(f"{name} needs exactly one of {', '.join(KINDS)}; it has {' and '.join(kinds) or 'none'}.")
        if bool(self.metric) != (kinds[0] == "above"):
            raise self.place.error(f"{name}: metric belongs to above, which needs it.")
        spec = _spec(self.spec, f"{name}.spec", (info.context or {})["specs"])
        if kinds[0] in ("over", "over_columns") and not isinstance(spec, TableSpec):
            raise self.at("spec").error(f"{name}.spec: {kinds[0]} compares cells of tables, and {spec.name} is a figure.")
        rows, columns = [row.label for row in spec.rows], [column.label for column in spec.columns]
        for key, labels in (("rows", rows), ("columns", columns), ("over", rows), ("over_columns", columns)):
            for index, label in enumerate(getattr(self, key)):
                if label not in labels:
                    what = f"{'column' if labels is columns else 'row'} of {spec.name}"
                    near, are = did_you_mean(label, labels), one_of(labels)
                    raise label.place.error(f"{name}.{key}[{index}]: there is no {what} called '{label}'.{near} There are: {are}.")
        chosen: tuple[str, ...] = self.columns or tuple(columns)
        for key, own, other in (("over", self.rows, self.over), ("over_columns", chosen, self.over_columns)):
            if both := [label for label in own if label in other]:
                raise self.at(key).error(f"{name}.{key}: '{both[0]}' would be compared with itself. Leave it out of one side.")
        for metric in self.metrics:
            _check_metric(metric, self, name)
        if kinds[0] == "correlation" and (len(self.metrics) != 2 or not all(metric.endswith("/{k}") for metric in self.metrics)):
            said = "two series over the classes, such as [class_meta_accuracy/{k}, class_target_probability/{k}]"
            raise self.at("correlation").error(f"{name}.correlation must be {said}.")
        return self.model_copy(update={"columns": chosen})


class Claim(Model):
    """One claim and its tests; see the module."""

    id: Annotated[AnyText, matching(r"[a-z][a-z0-9_]*", "a word of small letters, digits and _")]
    text: Line = Field(alias="claim")
    source: Line
    direction: Literal["higher", "lower"]
    combine: Literal["mean", "every"] = "mean"
    margin: Finite = 0.0
    published: Line = ""
    tests: Items[Test]

    @property
    def every(self) -> bool:
        """Whether each comparison must hold by itself."""
        return self.combine == "every"


class Claims(Model):
    """Everything of the file; ``sha256`` is that of its bytes."""

    hidden: ClassVar[tuple[str, ...]] = ("sha256",)

    level: Finite
    scales: Items[_KnownScale]
    claims: Items[Claim]
    sanity: Items[Claim]
    sha256: str = ""

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if not 0.0 < self.level < 1.0:
            raise self.at("level").error(f"level must be a number between 0 and 1, found '{self.level:g}'.")
        seen: dict[str, Claim] = {}
        for claim in (*self.claims, *self.sanity):
            if claim.id in seen:
                raise claim.at("id").error(f"two claims are called {claim.id}, the first in {seen[claim.id].place}. Give one another id.")
            seen[claim.id] = claim
        return self


def load_claims(path: Path = FILE) -> Claims:
    """Read and check the claims.

    Raises:
        SpecError: a mistake; the message names file and line.
    """
    path = existing(str(path))
    content = read_file(path)
    specs: _Specs = {}
    claims = validate(Claims, load(path, content), {"specs": specs})
    return claims.model_copy(update={"sha256": hashlib.sha256(content).hexdigest()})


def _spec(named: Text, name: str, specs: _Specs) -> TableSpec | FigureSpec:
    if named not in specs:
        spec = load_spec(named)
        if isinstance(spec, RecipeSpec):
            raise named.place.error(f"{name}: {named} has no runs.")
        specs[named] = spec
    return specs[named]


def _check_metric(metric: str, test: Test, name: str) -> None:
    try:
        definition_of(metric.replace("{k}", "000"))
    except KeyError:
        known = [item.name for item in METRICS if not item.mirror_only]
        place = test.at({"above": "metric"}.get(test.kind, test.kind))
        raise place.error(f"{name}: there is no metric '{metric}'.{did_you_mean(metric, known)}") from None
