"""Our cells beside the published numbers: the gap between the means, and a verdict by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analysis.stats import Summary, rounded
from sweeps.spec import PAPER, Reported, TableSpec

#: What can be said of a cell beside its published number.
VERDICTS = ("within", "outside", "not run", "incomplete", "diverged", "no published number", "another scale")

#: How many of 100 exact reproductions with three runs would be called within: P(|t_2| <= sqrt(3/2)), since the difference of two means of
#: three, divided by the published SD, is t_2 times sqrt(2/3).
WITHIN_BY_CHANCE = 65


@dataclass(frozen=True)
class Beside:
    """One of our cells beside what was published for it.

    Attributes:
        published: ``None`` where nothing was.
        gap: our mean minus the published one, in the published unit; ``None`` unless all our runs are done and finite, and of the
            paper's scale.
        verdict: one of :data:`VERDICTS`.
    """

    row: str
    column: str
    published: Reported | None
    gap: float | None
    verdict: str


def beside(spec: TableSpec, cells: Mapping[tuple[str, str], Summary]) -> list[Beside]:
    """Return what stands beside each cell that has runs or a published number, row by row.

    Raises:
        SpecError: a published number is in another unit than the table.
    """
    reported = {(item.row, item.column): item for item in spec.reported}
    factor = 100.0 if spec.value.scale == "percent" else 1.0
    found = []
    for (row, column), summary in cells.items():
        published = reported.get((row, column))
        if published is None and summary.expected == 0:
            continue
        if published is not None and published.unit != spec.value.scale:
            raise published.place.error(f"unit {published.unit}: {spec.name} is in {spec.value.scale}.")
        comparable = published is not None and summary.complete and spec.scale == PAPER
        gap = summary.mean * factor - published.mean if comparable and published is not None and summary.mean is not None else None
        verdict = "another scale" if spec.scale != PAPER and published is not None else _verdict(summary, published, gap)
        found.append(Beside(row, column, published, gap, verdict))
    return found


def _verdict(summary: Summary, published: Reported | None, gap: float | None) -> str:
    if summary.n == 0:
        return "not run"
    if summary.diverged:
        return "diverged"
    if summary.n < summary.expected:
        return "incomplete"
    if published is None or gap is None:
        return "no published number"
    # Half of the last printed digit is what rounding alone can do.
    return "within" if abs(gap) <= max(published.sd or 0.0, 0.5 * 10.0 ** -_digits(published.mean, published)) + 1e-9 else "outside"


def _digits(value: float, published: Reported) -> int:
    """Return the digits after the point that ``value`` was given with; at least one in percent, where 60.0 is read as 60."""
    return max(1 if published.unit == "percent" else 0, len(f"{value:.9f}".rstrip("0").partition(".")[2]))


def published_text(published: Reported, note: int | None) -> str:
    """Return a published number as a page prints it; ``note`` is the number of the note that says where it was copied from."""
    text = rounded(published.mean, 1.0, _digits(published.mean, published))
    if published.sd is not None:
        text += f" ± {rounded(published.sd, 1.0, _digits(published.sd, published))}"
    return text if note is None else f"{text} [{note}]"


def copied_sources(items: Sequence[Beside]) -> dict[str, int]:
    """Return source -> number of its note, of the published numbers that their paper copied from elsewhere."""
    sources = dict.fromkeys(item.published.source for item in items if item.published is not None and not item.published.own_run)
    return {source: index for index, source in enumerate(sources, start=1)}
