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
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from repro.errors import did_you_mean, one_of
from repro.metric_names import METRICS, definition_of
from sweeps.epochs import read_metric
from sweeps.nodes import Entry, Place, existing, read_file, read_yaml
from sweeps.spec import FigureSpec, RecipeSpec, TableSpec, known_scales, known_specs, load_spec

FILE = Path(__file__).with_name("claims.yaml")

_ID = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_DIRECTIONS = ("higher", "lower")
_COMBINE = ("mean", "every")
#: What a test can look at; each test has exactly one of these.
KINDS = ("over", "over_columns", "change", "above", "correlation")


@dataclass(frozen=True)
class Test:
    """One comparison, or the same one for several rows and columns.

    Attributes:
        kind: one of :data:`KINDS`.
        spec, rows, columns: whose cells; of a figure without columns, ``columns`` is one empty label.
        over: the rows that ``rows``, or the columns that ``columns`` are compared with.
        metrics: what is read: one name; two series of a correlation; empty for a table's own.
        above: the constant of ``above``.
    """

    kind: str
    spec: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    over: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    above: float = 0.0


@dataclass(frozen=True)
class Claim:
    """One claim and its tests; see the module."""

    id: str
    text: str
    source: str
    direction: str
    every: bool
    margin: float
    published: str
    tests: tuple[Test, ...]
    place: Place


@dataclass(frozen=True)
class Claims:
    """Everything of the file; ``sha256`` is that of its bytes."""

    level: float
    scales: tuple[str, ...]
    claims: tuple[Claim, ...]
    sanity: tuple[Claim, ...]
    sha256: str


def load_claims(path: Path = FILE) -> Claims:
    """Read and check the claims.

    Raises:
        SpecError: a mistake; the message names file and line.
    """
    path = existing(str(path))
    content = read_file(path)
    parts = read_yaml(path, content).mapping(
        allowed=("level", "scales", "claims", "sanity"), required=("level", "scales", "claims", "sanity")
    )
    specs: dict[str, TableSpec | FigureSpec] = {}
    seen: dict[str, Claim] = {}
    claims = tuple(_claim(item, specs, seen) for item in parts["claims"].items())
    sanity = tuple(_claim(item, specs, seen) for item in parts["sanity"].items())
    level = _number(parts["level"])
    if not 0.0 < level < 1.0:
        raise parts["level"].wrong("a number between 0 and 1")
    scales = tuple(item.choice(tuple(known_scales())) for item in parts["scales"].items())
    return Claims(level, scales, claims, sanity, hashlib.sha256(content).hexdigest())


def _claim(entry: Entry, specs: dict[str, TableSpec | FigureSpec], seen: dict[str, Claim]) -> Claim:
    required = ("id", "claim", "source", "direction", "tests")
    parts = entry.mapping(allowed=(*required, "combine", "margin", "published"), required=required)
    name = parts["id"].text()
    if not _ID.fullmatch(name):
        raise parts["id"].wrong("a word of small letters, digits and _")
    if name in seen:
        raise parts["id"].place.error(f"two claims are called {name}, the first in {seen[name].place}. Give one another id.")
    claim = Claim(
        id=name,
        text=parts["claim"].line(),
        source=parts["source"].line(),
        direction=parts["direction"].choice(_DIRECTIONS),
        every="combine" in parts and parts["combine"].choice(_COMBINE) == "every",
        margin=_number(parts["margin"]) if "margin" in parts else 0.0,
        published=parts["published"].line() if "published" in parts else "",
        tests=tuple(_test(item, specs) for item in parts["tests"].items()),
        place=entry.place,
    )
    seen[name] = claim
    return claim


def _test(entry: Entry, specs: dict[str, TableSpec | FigureSpec]) -> Test:
    parts = entry.mapping(allowed=("spec", "rows", "columns", "metric", *KINDS), required=("spec", "rows"))
    kinds = [kind for kind in KINDS if kind in parts]
    if len(kinds) != 1:
        raise entry.place.error(f"{entry.name} needs exactly one of {', '.join(KINDS)}; it has {' and '.join(kinds) or 'none'}.")
    kind = kinds[0]
    if ("metric" in parts) != (kind == "above"):
        raise entry.place.error(f"{entry.name}: metric belongs to above, which needs it.")
    spec = _spec(parts["spec"], specs)
    compares = kind in ("over", "over_columns")
    if compares and not isinstance(spec, TableSpec):
        raise parts["spec"].place.error(f"{parts['spec'].name}: {kind} compares cells of tables, and {spec.name} is a figure.")
    rows, columns = [row.label for row in spec.rows], [column.label for column in spec.columns]
    first = _labels(parts["rows"], rows, f"row of {spec.name}")
    chosen = _labels(parts["columns"], columns, f"column of {spec.name}") if "columns" in parts else tuple(columns)
    over: tuple[str, ...] = ()
    if compares:
        what, known, own = ("row", rows, first) if kind == "over" else ("column", columns, chosen)
        over = _labels(parts[kind], known, f"{what} of {spec.name}")
        if both := [label for label in own if label in over]:
            raise parts[kind].place.error(f"{parts[kind].name}: '{both[0]}' would be compared with itself. Leave it out of one side.")
    metrics: tuple[str, ...] = ()
    if kind == "change":
        metrics = (_metric(parts["change"]),)
    elif kind == "above":
        metrics = (_metric(parts["metric"]),)
    elif kind == "correlation":
        metrics = tuple(_metric(item, family=True) for item in parts["correlation"].items())
        if len(metrics) != 2 or not all(metric.endswith("/{k}") for metric in metrics):
            raise parts["correlation"].wrong("two series over the classes, such as [class_meta_accuracy/{k}, class_target_probability/{k}]")
    return Test(kind, spec.name, first, chosen, over, metrics, _number(parts["above"]) if kind == "above" else 0.0)


def _spec(entry: Entry, specs: dict[str, TableSpec | FigureSpec]) -> TableSpec | FigureSpec:
    name = entry.choice(tuple(known_specs()))
    if name not in specs:
        spec = load_spec(name)
        if isinstance(spec, RecipeSpec):
            raise entry.place.error(f"{entry.name}: {name} has no runs.")
        specs[name] = spec
    return specs[name]


def _labels(entry: Entry, known: Sequence[str], what: str) -> tuple[str, ...]:
    found: list[str] = []
    for item in entry.items():
        label = item.line()
        if label not in known:
            raise item.place.error(
                f"{item.name}: there is no {what} called '{label}'.{did_you_mean(label, known)} There are: {one_of(known)}."
            )
        if label in found:
            raise item.place.error(f"{item.name}: '{label}' stands twice. Keep one.")
        found.append(label)
    return tuple(found)


def _metric(entry: Entry, *, family: bool = False) -> str:
    name = read_metric(entry, family=family)
    try:
        definition_of(name.replace("{k}", "000"))
    except KeyError:
        known = [metric.name for metric in METRICS if not metric.mirror_only]
        raise entry.place.error(f"{entry.name}: there is no metric '{name}'.{did_you_mean(name, known)}") from None
    return name


def _number(entry: Entry) -> float:
    value = entry.scalar()
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise entry.wrong("a number")
    return float(value)
