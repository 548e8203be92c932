"""Our cells beside the published numbers: the gap between the means, and a verdict by a stated rule."""

from __future__ import annotations

from collections.abc import Iterable

from analysis.reading.stats import Summary, factor, rounded
from sweeps.spec.load import PAPER, Reported, TableSpec

#: How many of 100 exact reproductions with three runs would be called within: P(abs(t_2) <= sqrt(3/2)), since the difference of two means
#: of three, divided by the published SD, is t_2 times sqrt(2/3).
WITHIN_BY_CHANCE = 65


def compare(spec: TableSpec, summary: Summary, published: Reported | None) -> tuple[float | None, str | None]:
    """Return what to say of a cell of ``spec`` beside its published number: the gap, and the verdict.

    The gap is our mean minus the published one, in the published unit; ``None`` unless all our runs are done and finite, and of the
    paper's scale. There is no verdict where the table has no published number, or the cell neither runs nor a number.

    Raises:
        SpecError: the published number is in another unit than the table.
    """
    if not spec.reported or (published is None and summary.expected == 0):
        return None, None
    if published is not None and published.unit != spec.value.scale:
        raise published.place.error(f"unit {published.unit}: {spec.name} is in {spec.value.scale}.")
    if published is not None and spec.scale != PAPER:
        return None, "another scale"
    if summary.mean is None:
        return None, "not run"
    if not summary.complete:
        return None, "diverged" if summary.diverged else "incomplete"
    if published is None:
        return None, "no published number"
    gap = summary.mean * factor(spec.value.scale) - published.mean
    # Half of the last printed digit is what rounding alone can do.
    tolerance = max(published.sd or 0.0, 0.5 * 10.0 ** -_digits(published.mean, published))
    return gap, "within" if abs(gap) <= tolerance + 1e-9 else "outside"


def _digits(value: float, published: Reported) -> int:
    """Return the digits after the point that ``value`` was given with; at least one in percent, where 60.0 is read as 60."""
    return max(1 if published.unit == "percent" else 0, len(f"{value:.9f}".rstrip("0").partition(".")[2]))


def published_text(published: Reported, note: int | None) -> str:
    """Return a published number as a page prints it; ``note`` is the number of the note that says where it was copied from."""
    text = rounded(published.mean, 1.0, _digits(published.mean, published))
    if published.sd is not None:
        text += f" ± {rounded(published.sd, 1.0, _digits(published.sd, published))}"
    return text if note is None else f"{text} [{note}]"


def copied_sources(published: Iterable[Reported]) -> dict[str, int]:
    """Return source -> number of its note, of the published numbers that their paper copied from elsewhere."""
    sources = dict.fromkeys(item.source for item in published if not item.own_run)
    return {source: index for index, source in enumerate(sources, start=1)}
