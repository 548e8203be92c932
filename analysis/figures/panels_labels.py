"""The labels of single images: the classes that converged labels find likely (Figure 2), and the labels put right (Figure 3)."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from analysis.figures.panels import RULE, cells_of, csv_row, drawn, marked
from analysis.figures.tiles import Bar, Tile, Tiles
from analysis.reading.cells import Collected
from analysis.reading.images import TrainingSets
from analysis.reading.learned import Learned, read_learned
from analysis.reading.stats import Summary, factor, summarize
from repro.errors import UserError
from sweeps.spec.load import FigureSpec, Panel, Sample

#: So many classes a chart.
TOP = 5
#: Where the spec does not say which images.
DEFAULT_TOP, DEFAULT_EXAMPLES = Sample(count=4, seed=0), Sample(count=8, seed=0)


def tiles_of(spec: FigureSpec, cells: Sequence[Collected], sets: TrainingSets) -> list[Tiles]:
    """Return the panels of images of a figure, column by column."""
    makers = {"top_classes": top_classes, "examples": examples}
    return [
        makers[panel.type](spec, panel, column.label, cells, sets)
        for column in spec.columns
        for panel in spec.panels
        if panel.type in makers
    ]


def _read_cell(cell: Collected, sets: TrainingSets, made: Tiles) -> list[Learned]:
    """Return the instance labels of the cell's done runs that recorded any, and add the cell's row to the heading of the panel."""
    found = [one for repeat in cell.repeats if (one := read_learned(repeat, made.panel.label, sets)) is not None]
    made.excerpts |= {one.repeat.run.run_id: one.excerpt((), common=0) for one in found}
    made.rows_shown.append(marked(cell.row, n=len(found), expected=len(cell.repeats), diverged=sum(one.diverged for one in found)))
    return found


def top_classes(spec: FigureSpec, panel: Panel, column: str, cells: Sequence[Collected], sets: TrainingSets) -> Tiles:
    """Return the panel: for each chosen image the mean over the runs of its most probable classes but the annotated one.

    The spread is the standard deviation over the runs that trained on the image; one that diverged leaves the image without a chart.

    Raises:
        UserError: recorded labels are damaged, the dataset is another than the runs', or the runs of a cell have different ones.
    """
    here = cells_of(panel, column, cells)
    made = Tiles(panel, column, series=("",), limit=None, message=_message_without_tiles(here))
    made.notes.append(
        f"{panel.label}: the {TOP} most probable classes but the annotated one, at the last visit; mean over the runs that trained on the "
        "image, each chart with an axis of its own; above it the annotated class with its mean probability"
        + ("." if spec.spread == "none" else "; whiskers: ± spread.")
    )
    wanted = DEFAULT_TOP if panel.instances is None else panel.instances
    for cell in here:
        learned = _read_cell(cell, sets, made)
        if not learned:
            continue
        if len({sets.key(one.repeat.run) for one in learned}) > 1:
            raise UserError(
                f"{spec.path}: panel '{panel.label}': the runs of {cell.label} have different datasets. Draw them in rows of their own."
            )
        shared = set.intersection(*(set(one.positions.tolist()) for one in learned))
        common = learned[0].counts.get("common", len(shared))
        if isinstance(wanted, Sample):
            positions = drawn(shared, wanted)
            how = f"drawn with seed {wanted.seed} among the {common} that every done run trained on: {RULE}"
        else:
            positions, how = wanted, "as the figure lists them"
        made.chosen.update(positions)
        made.run_ids += [one.repeat.run.run_id for one in learned]
        made.excerpts |= {one.repeat.run.run_id: one.excerpt(positions, common=common) for one in learned}
        made.notes.append(f"Images of {cell.label}: {', '.join(map(str, positions))}, {how}.")
        if learned[0].true is None:
            made.notes.append(f"{cell.label}: the annotated class is taken to be the most probable one at the first visit.")
        _add_top(made, spec, cell, learned, positions, sets, title=cell.row + ", " if len(here) > 1 else "")
    return made


def _message_without_tiles(cells: Sequence[Collected]) -> str:
    if not cells:
        return "left out"
    return "no done run has instance labels" if any(cell.done for cell in cells) else "no run is done"


def _add_top(
    made: Tiles, spec: FigureSpec, cell: Collected, learned: Sequence[Learned], positions: Sequence[int], sets: TrainingSets, *, title: str
) -> None:
    """Add a tile for each position, and its lines of the CSV."""
    panel, expected = made.panel, len(cell.repeats)
    names = functools.partial(sets.class_name, learned[0].repeat.run)
    rows = [one.rows_of(positions) for one in learned]
    annotated = [one.annotated[row] for one, row in zip(learned, rows, strict=True)]
    final = [None if one.diverged else one.last[row] for one, row in zip(learned, rows, strict=True)]
    for index, position in enumerate(positions):
        having = [run for run in range(len(learned)) if rows[run][index] >= 0]
        targets = sorted({int(annotated[run][index]) for run in having})
        known = [labels[index] for run in having if (labels := final[run]) is not None]
        summaries: dict[int, Summary] = {}
        if known and len(known) == len(having):
            summaries = {
                number: summarize([float(one[number]) for one in known], expected=expected) for number in range(learned[0].last.shape[1])
            }
        means = {number: "" if item.mean is None else f", {item.mean * factor(panel.scale):#.3g}" for number, item in summaries.items()}
        described = " / ".join(f"{names(number)}{means.get(number, '')}" for number in targets)
        heading = f"annotated: {described}" if described else "no run"
        heading = title + marked(heading, n=len(having), expected=expected, diverged=len(having) - len(known))
        others = [number for number in summaries if number not in targets]
        top = sorted(others, key=lambda number: (-(summaries[number].mean or 0.0), number))[:TOP]
        message = "" if top else ("no done run trained on it" if not having else "diverged")
        bars = tuple(Bar(names(number), (summaries[number],)) for number in top)
        made.tiles.append(
            Tile(position, next((found for one in learned if (found := one.image(position)) is not None), None), heading, bars, message)
        )
        made.rows += [
            csv_row(spec, panel, cell, summaries[number], metric="label_probability", instance=position, epoch="last")
            | {"class": number, "class_name": names(number), "annotated": " ".join(map(str, targets))}
            for number in (*(number for number in targets if number in summaries), *top)
        ]


def examples(spec: FigureSpec, panel: Panel, column: str, cells: Sequence[Collected], sets: TrainingSets) -> Tiles:
    """Return the panel: corrected images of the first repeat that is done and did not diverge, a row of the figure after the other.

    Beside each image stand the probabilities of its annotated and of its true class at its first and its last recorded visit. The first
    one comes after the first update, unless the run has ``trajectory.when=before``.

    Raises:
        UserError: recorded labels are damaged, or the dataset is another than the run's.
    """
    here = cells_of(panel, column, cells)
    made = Tiles(panel, column, series=("first epoch", "last epoch"), limit=1.0, message=_message_without_tiles(here))
    when: set[str] = set()
    for cell in here:
        learned = _read_cell(cell, sets, made)
        first = next((one for one in learned if not one.diverged), None)
        if first is None:
            made.message = "every done run diverged" if learned else made.message
            continue
        where = f"{panel.label}: {cell.label}, {first.repeat.label} (`{first.repeat.run.run_id}`)"
        if first.true is None or first.repeat.run.fields.get("noise.name", "none") == "none":
            made.message = (
                "the dataset is not on this machine, so the true classes are not known"
                if first.true is None
                else "the run has no label noise, so no label is wrong"
            )
            made.notes.append(f"{where}: {made.message}.")
            continue
        candidates, counts = first.candidates, first.counts
        count = (
            f"{counts['corrected']} of its {counts['wrong']} wrongly annotated images were corrected, "
            f"out of {counts['trained_on']} training images"
        )
        wanted = DEFAULT_EXAMPLES if panel.instances is None else panel.instances
        if isinstance(wanted, Sample):
            positions = drawn(candidates, wanted)
            how = f"{len(positions)} of them drawn with seed {wanted.seed}: {RULE}"
        else:
            positions = tuple(position for position in wanted if position in set(candidates))
            others = ", ".join(str(position) for position in wanted if position not in positions)
            how = f"shown as the figure lists them{f', but not {others}, no corrected images' if others else ''}"
        made.notes.append(f"{where}: {count}; {how}.")
        made.message = "no wrong label was corrected"
        made.chosen.update(positions)
        made.excerpts[first.repeat.run.run_id] = first.excerpt(positions, common=len(first.positions))
        when.add(first.when)
        epochs = (1, first.epochs)
        for position, row in zip(positions, first.rows_of(positions), strict=True):
            pair = {"annotated": int(first.annotated[row]), "true": int(first.true[row])}
            bars = []
            for kind, number in pair.items():
                name = sets.class_name(first.repeat.run, number)
                values = tuple(summarize([float(visit[row, number])], expected=1) for visit in (first.first, first.last))
                bars.append(Bar(f"{name}\n({kind})", values))
                made.rows += [
                    csv_row(spec, panel, cell, value, metric="label_probability", instance=position, epoch=epoch)
                    | {"repeat": first.repeat.label, "class": number, "class_name": name, **pair}
                    for epoch, value in zip(epochs, values, strict=True)
                ]
            made.tiles.append(Tile(position, first.image(position), cell.row if len(here) > 1 else "", tuple(bars)))
    if made.tiles:
        visit = " or ".join(sorted(when))
        made.notes.append(f"First and last epoch: the label {visit} the update at the image's visit in that epoch; one run, so no spread.")
    return made
