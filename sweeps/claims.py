"""The claims of the paper as data: what each says in our words, and which numbers of which runs support or contradict it.

``sweeps/claims.yaml``::

    level: 0.05                                     # of all claims together
    scales: [paper, small]                          # where they are tested, each by itself
    new_seeds: {small: [3, 4]}                      # by scale, the seeds that nobody had looked at when their number was fixed
    claims:
      - id: clean                                   # a word
        claim: Learned labels do better than one-hot labels.
        source: section 3.2, Table 1                # where the paper says so
        direction: higher                           # what the difference must be: higher or lower than the threshold
        combine: mean                               # of all comparisons (default); every: each one must hold by itself
        threshold: 0.0                              # optional, in the unit of the difference; default 0
        margin: 1.0                                 # optional, likewise: what is smaller counts as no difference; default 1
        published: 40 to 33                         # optional: the paper's numbers, where they stand in no table
        tests: [...]
    equal_tuning: [...]                             # the claims that runs at equal tuning test in another form than the paper
    sanity: [...]                                   # the same, for what must hold before anything is concluded
    measured:                                       # differences that no claim is about, a line each
      - {id: choices, title: What a choice is worth, margin: 1.0, tests: [...]}

A test is one of these; ``columns`` are all unless they are given::

    - {spec: table1, rows: [Ours (Class)], over: [Baseline], columns: [..]}    # a row minus another one, for each pair and column
    - {spec: table4, rows: [..], columns: [Ours (Model)], over_columns: [Baseline]}        # a column minus another one, in each row
    - {spec: figure4, rows: [..], change: noise/label_error}                   # the last epoch minus the first recorded, in each run
    - {spec: figure2, rows: [..], metric: label/entropy, above: 0.04}          # the value after the last epoch, minus a constant
    - {spec: figure2, rows: [..], correlation: ["one/{k}", "other/{k}"]}       # Spearman's over the classes, after the last epoch
"""

from __future__ import annotations

from itertools import chain, product
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, FiniteFloat, model_validator

from sweeps.scales import load_scale
from sweeps.spec import Names, known_specs, load_spec
from sweeps.yaml_files import Model, look_up, read

FILE = Path(__file__).with_name("claims.yaml")

#: What a test can look at; each test has exactly one of these.
KINDS = ("over", "over_columns", "change", "above", "correlation")


class Test(Model):
    """One comparison, or the same one for several rows and columns.

    Attributes:
        spec, rows, columns: whose cells; no columns: all of them, of a figure one with an empty label.
        over: the rows that ``rows`` are compared with.
        over_columns: the columns that ``columns`` are compared with.
        metric: of which the value after the last epoch is compared with ``above``.
    """

    spec: str
    rows: Names
    columns: Names = Field(default=[])
    over: Names = Field(default=[])
    over_columns: Names = Field(default=[])
    change: str = ""
    metric: str = ""
    above: FiniteFloat = 0.0
    correlation: list[str] = Field(default=[])

    @property
    def kind(self) -> str:
        """Which of :data:`KINDS` it is."""
        return next(kind for kind in KINDS if kind in self.model_fields_set)

    @property
    def metrics(self) -> list[str]:
        """The metrics whose curves it reads; none for a comparison of cells."""
        return [metric for metric in (self.change, self.metric, *self.correlation) if metric]

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        kinds = [kind for kind in KINDS if kind in self.model_fields_set]
        if len(kinds) != 1 or bool(self.metric) != (kinds == ["above"]):
            raise ValueError(
                f"a test has exactly one of {', '.join(KINDS)}, and metric with above; this one has {', '.join(kinds) or 'none'}."
            )
        look_up(self.spec, known_specs(), "spec: there is no spec")
        spec = load_spec(self.spec)
        rows, columns = ({line.label: line for line in lines} for lines in (spec.row_lines, spec.column_lines))
        for label in (*self.rows, *self.over):
            look_up(label, rows, f"{self.spec} has no row")
        for label in (*self.columns, *self.over_columns):
            look_up(label, columns, f"{self.spec} has no column")
        named = self.columns or list(columns)
        for row, column in product((*self.rows, *self.over), (*named, *self.over_columns)):
            if any(rule.skip and rule.holds_for(row, column) for rule in spec.cells):
                raise ValueError(f"{self.spec} leaves the cell '{row}', '{column}' out.")
        return self.model_copy(update={"columns": named})


class Measure(Model):
    """Comparisons of which each is told by itself; a difference within ``margin`` counts as none."""

    id: str
    title: str = ""
    direction: Literal["higher", "lower", "either"] = "either"
    combine: Literal["mean", "every", "each"] = "each"
    threshold: FiniteFloat = 0.0
    margin: FiniteFloat = Field(default=1.0, ge=0.0)
    published: str = ""
    tests: list[Test] = Field(min_length=1)


class Claim(Measure):
    """One claim and its tests; see the module."""

    text: str = Field(alias="claim")
    source: str
    direction: Literal["higher", "lower"]
    combine: Literal["mean", "every"] = "mean"


class Claims(Model):
    """Everything of the file."""

    level: float = Field(gt=0, lt=1)
    scales: list[str]
    new_seeds: dict[str, list[int]] = Field(default={})
    claims: list[Claim] = Field(min_length=1)
    equal_tuning: list[Claim] = Field(default=[])
    sanity: list[Claim] = Field(default=[])
    measured: list[Measure] = Field(default=[])

    @property
    def all(self) -> list[Measure]:
        """Claims, sanity checks and what is measured beside them."""
        return [*self.sanity, *self.claims, *self.equal_tuning, *self.measured]

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        ids = [claim.id for claim in self.all]
        for index, name in enumerate(ids):
            if name in ids[:index]:
                raise ValueError(f"two claims are called {name}. Give one another id.")
        for name in (*self.scales, *self.new_seeds):
            load_scale(name)
        for name, seeds in self.new_seeds.items():
            repeats = load_scale(name).repeats
            trained = {
                seed
                for test in chain(*(claim.tests for claim in self.claims))
                for seed in repeats.get(test.spec, load_spec(test.spec).repeats)["seed"]
            }
            for seed in seeds:
                if seed not in trained:
                    raise ValueError(f"new_seeds.{name}: no claim has runs with seed {seed}.")
        return self


def load_claims(path: Path = FILE) -> Claims:
    """Read and check the claims.

    Raises:
        SpecError: a mistake; the message names the file and the path of the value.
    """
    return read(Claims, path)
