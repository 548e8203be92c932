"""The claims at one scale as a forest plot: the paper's difference, ours with its interval, and the verdict."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

import matplotlib.style
from matplotlib.figure import Figure

from analysis.figures.draw import STYLES, saved
from analysis.tables.claims import CONTRADICTED, EQUIVALENT, SUPPORTED, Outcome
from sweeps.claims import Claim
from sweeps.scales import Scale

#: Markers differ in form and in lightness, so that print in gray tells them apart.
_LOOKS = {SUPPORTED: ("o", "#0072B2"), CONTRADICTED: ("v", "#D55E00"), EQUIVALENT: ("s", "#56B4E9")}
_OTHERS = ("D", "white")

#: Linear within so many margins around 0, logarithmic beyond.
_LINEAR = 2.0
_TICKS = (-30, -10, -5, -2, -1, 0, 1, 2, 5, 10, 30)


def forest(scale: Scale, tested: Sequence[tuple[Claim, Outcome]]) -> dict[str, bytes]:
    """Return the picture by format; a line a claim, in units of its margin, with the claimed side to the right."""
    with matplotlib.style.context(STYLES, after_reset=True):
        figure = Figure(figsize=(8.5, 1.2 + 0.42 * len(tested)), layout="constrained")
        axes = figure.subplots()
        for line, (claim, outcome) in enumerate(tested):
            size = claim.margin or 1.0
            unit = size if claim.direction == "higher" else -size
            marker, fill = _LOOKS.get(outcome.verdict, _OTHERS)
            if outcome.difference is not None and math.isfinite(outcome.difference):
                axes.plot(outcome.difference / unit, line, marker, color=fill, markeredgecolor="black", markersize=7, zorder=3)
            for low, high, width in (
                (outcome.low_95, outcome.high_95, 3.0),
                (outcome.low_adjusted, outcome.high_adjusted, 1.0),
            ):
                if low is not None and high is not None:
                    axes.plot((low / unit, high / unit), (line, line), color="black", linewidth=width)
            if outcome.published is not None:
                axes.plot(outcome.published / unit, line, "|", color="black", markersize=13, markeredgewidth=2)
            axes.text(1.01, line, outcome.verdict, transform=axes.get_yaxis_transform(), verticalalignment="center")
        axes.axvspan(-1, 1, color="#E5E5E5", zorder=0)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xscale("symlog", linthresh=_LINEAR)
        axes.set_xticks(_TICKS, [f"{tick:+d}" if tick else "0" for tick in _TICKS])
        axes.set_xlim(_TICKS[0], _TICKS[-1])
        axes.set_yticks(range(len(tested)), [textwrap.fill(claim.text, 62) for claim, _ in tested], fontsize=7)
        axes.set_ylim(len(tested) - 0.4, -0.6)
        axes.minorticks_off()
        axes.set_xlabel(
            "Difference on the claimed side, in units of the claim's margin (1 point of accuracy or of images unless it has another)\n"
            "Thick line: 95% interval, thin line: at the level of all claims; upright mark: the paper's difference; gray: the margin",
            fontsize=7,
        )
        figure.suptitle(textwrap.fill(scale.disclaimer, 130), fontsize=7)
        return saved(figure)
