"""Chooses settings by the results on validation images: the grids that specs need, their runs, and the best point of each.

One run is trained for each point of a grid. Its score is the validation accuracy after the last epoch in its ``final.json``; nothing
else of a run is read, so no number of the test set can take part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import UserError
from repro.files import number, write_text
from repro.runs.manifest import open_manifest
from sweeps.plan.apart import Apart
from sweeps.plan.graph import Graph
from sweeps.plan.plan import Plan, PlannedRun, planned_runs, planned_state
from sweeps.spec.chosen import Chosen, GridPoint, Key, Tuned, read_tuned, tuned_text
from sweeps.spec.expansion import Expansion, TuningUse, Variant
from sweeps.spec.load import Spec, with_tuned
from sweeps.spec.models import Epoch
from sweeps.spec.scale import Scale
from sweeps.spec.settings import Setting, in_order

if TYPE_CHECKING:
    from sweeps.local.progress import Outcome


@dataclass(frozen=True)
class Needed:
    """A tuning for one dataset and one model, as the first run that needs it does; ``expansion`` is that of this run's spec."""

    use: TuningUse
    expansion: Expansion

    @cached_property
    def grid(self) -> tuple[tuple[tuple[Setting, ...], Variant], ...]:
        """Each point of the grid with its run, at the spec's scale and with its chosen values."""
        return self.expansion.grid(self.use)


#: What is compared, and where in a run it is read.
METRIC, EPOCH = "val/accuracy", Epoch("last")

#: A point of a grid: its settings and its run.
Planned = tuple[tuple[Setting, ...], PlannedRun]


def tune(
    specs: Sequence[Spec],
    scale: Scale,
    runs_folder: Path,
    tuned_folder: Path,
    execute: Callable[[Plan], Outcome],
    apart: Apart | None = None,
    *,
    again: bool = False,
) -> list[Chosen]:
    """Do every tuning that ``specs`` need, those first whose values others need, and write what was chosen to ``tuned_folder``.

    ``execute`` trains the missing runs of a plan, which ``apart`` makes. Runs that are done are not trained again, so calling this again
    continues. Of a grid whose scores are in ``tuned_folder`` already nothing is trained, unless ``again``, whatever the runs folder holds:
    on another processor the same runs score a little differently, and finished runs have the values that were chosen first. When a signal
    or the end of its time stopped ``execute``, what has been chosen until then is returned.

    Raises:
        UserError: a run of a grid failed, or diverged at every point; what the others of its level chose is written nevertheless.
    """
    tuned = read_tuned(scale, tuned_folder)
    finished: list[Chosen] = []
    for index in range(len(tunings_of([with_tuned(spec, tuned) for spec in specs]))):
        # What was chosen before decides the runs that this level's read.
        level = tunings_of([with_tuned(spec, tuned) for spec in specs])[index]
        make = plan_level if apart is None else partial(apart, plan_level)
        plan, planned = make(level, runs_folder)
        kept = {} if again else {key: of.grid for key, of in tuned.chosen.items() if key in planned and _is_of(of, planned[key])}
        for needed in level:
            if needed.use.key in kept:
                print(f"{needed.use}: {tuned.path} has the scores of these runs; `python -m sweeps tune --again` trains and chooses anew")
        changed: Mapping[str, str] = {}
        if missing := [needed for needed in level if needed.use.key not in kept]:
            outcome = execute(make(missing, runs_folder)[0] if kept else plan)
            if outcome.stopped_by is not None or outcome.out_of_time:
                break
            changed = outcome.changed
        chosen, problems = [], []
        for needed in level:
            key = needed.use.key
            try:
                chosen.append(_chosen(needed, planned[key], kept.get(key), runs_folder, changed))
            except UserError as error:
                problems.append(str(error))
        if chosen:
            tuned = _write(scale, tuned_folder, chosen)
            finished.extend(chosen)
        if problems:
            raise UserError("\n".join(problems))
    return finished


def tunings_of(specs: Iterable[Spec]) -> tuple[tuple[Needed, ...], ...]:
    """Return the tunings that ``specs`` use, also through others, as levels: each needs values of earlier levels only.

    Raises:
        UserError: two specs mean different tunings by one name; tunings wait for each other.
    """
    found: dict[Key, Needed] = {}
    queue: list[Needed] = []

    def note(uses: Iterable[TuningUse], expansion: Expansion) -> None:
        for use in uses:
            known = next((item.use.tuning for key, item in found.items() if key[0] == use.key[0]), use.tuning)
            if known.place != use.tuning.place:
                raise use.place.error(f"tuning '{known.name}' is also in {known.place}. Keep one, in a file that both specs share.")
            if use.key not in found:
                found[use.key] = Needed(use, expansion)
                queue.append(found[use.key])

    for spec in specs:
        expansion = Expansion(spec)
        note(_uses([variant for cell in expansion.cells() for variant in cell.composed], set()), expansion)
    # After all cells: the first cell that needs a tuning says for what.
    waits: dict[Key, set[Key]] = {}
    for needed in queue:
        below = list(_uses([variant for _, variant in needed.grid], set()))
        tuning = needed.use.tuning
        base = needed.expansion.base(needed.use)
        taken_over = {item.origin for item in base.values() if item.key not in tuning.keys and item.origin is not None}
        waits[needed.use.key] = {use.key for use in below} | taken_over
        note(below, needed.expansion)
    order = TopologicalSorter({key: waits[key] & found.keys() for key in found})
    try:
        order.prepare()
    except CycleError as error:
        circle = [item for key, item in found.items() if key in error.args[1]]
        names = "; ".join(str(item.use) for item in circle)
        raise circle[0].use.place.error(
            f"these tunings wait for each other's values: {names}. A run that is read takes over its reader's tuned values; set "
            "them in that run."
        ) from error
    levels: list[tuple[Needed, ...]] = []
    while order:
        ready = set(order.get_ready())
        levels.append(tuple(item for key, item in found.items() if key in ready))
        order.done(*ready)
    return tuple(levels)


def _uses(variants: Sequence[Variant], seen: set[int]) -> Iterator[TuningUse]:
    """Return the tunings of ``variants`` and of all that they read, a reader's before those of its inputs, leaving out runs in ``seen``."""
    for variant in variants:
        if id(variant) not in seen:
            seen.add(id(variant))
            yield from variant.uses
            yield from _uses(variant.read, seen)


def plan_level(level: Sequence[Needed], folder: Path) -> tuple[Plan, dict[Key, tuple[Planned, ...]]]:
    """Return the plan of all runs of some grids, and for each tuning its points with their runs.

    Raises:
        UserError: a setting that does not exist or contradicts another one, with its file and line.
    """
    graph = Graph()
    graph.compose((needed.use, variant) for needed in level for _, variant in needed.grid)
    specs = {spec.name: spec for spec in (needed.expansion.spec for needed in level)}
    points: dict[Key, tuple[Planned, ...]] = {}
    for needed in level:
        spec, place = needed.expansion.spec.name, ", ".join(needed.use.key[1:])
        runs = [(values, graph.add(needed.use, variant, spec=spec, place=place)) for values, variant in needed.grid]
        points[needed.use.key] = tuple((values, graph.runs[name]) for values, name in runs)
    return Plan(folder, tuple(specs.values()), planned_runs(graph.runs.values(), folder), scale=level[0].expansion.spec.scale), points


def choose(points: Sequence[GridPoint], otherwise: Sequence[Setting] = ()) -> GridPoint:
    """Return the point with the highest finite score; of several the one with the values ``otherwise``, else the first.

    So values that were declared for a reason give way to better ones only, not to others that score the same.

    Raises:
        UserError: no score is finite; the message names the runs.
    """
    highest = max((point.score for point in points if math.isfinite(point.score)), default=None)
    if highest is None:
        raise UserError(f"every run diverged, so there is nothing to choose from: {', '.join(point.run_id for point in points)}.")
    best = [point for point in points if point.score == highest]
    declared = {setting.override for setting in otherwise}
    return next((point for point in best if {setting.override for setting in point.values} == declared), best[0])


def _is_of(chosen: Chosen, planned: Sequence[Planned]) -> bool:
    """Whether ``chosen`` has the scores of just these points and runs."""
    before = [(in_order(point.values), point.run_id) for point in chosen.grid]
    return before == [(in_order(values), run.run_id) for values, run in planned]


def _chosen(
    needed: Needed, planned: Sequence[Planned], kept: tuple[GridPoint, ...] | None, folder: Path, changed: Mapping[str, str]
) -> Chosen:
    """Return what the ``kept`` scores say, else a grid's finished runs; those of ``changed``, made by other code, say nothing."""
    try:
        grid = kept or _scores(planned, folder, changed)
        best = choose(grid, needed.use.tuning.otherwise)
    except UserError as error:
        raise needed.use.tuning.place.error(f"{needed.use}: nothing was chosen, {error}") from error
    (name, dataset, model), seed = needed.use.key, int(planned[0][1].fields["seed"])
    return Chosen(name=name, dataset=dataset, model=model, chosen=best.values, metric=METRIC, epoch=EPOCH, seed=seed, grid=grid)


def _scores(planned: Sequence[Planned], folder: Path, changed: Mapping[str, str]) -> tuple[GridPoint, ...]:
    points, missing = [], []
    for values, node in planned:
        try:
            if node.run_id in changed:
                raise UserError(f"made by other code: {changed[node.run_id]}")
            points.append(GridPoint(values=values, score=_score(folder / node.run_id), run_id=node.run_id))
        except UserError as error:
            missing.append(f"{node.run_id} ({error})")
    if missing:
        raise UserError(f"runs without a score: {', '.join(dict.fromkeys(missing))}.")
    return tuple(points)


def _score(folder: Path) -> float:
    state = planned_state(folder)
    if state != "done":
        raise UserError(state)
    results = open_manifest(folder).read_json("final.json")
    try:
        return number(results[METRIC][EPOCH.rule])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"its final.json has no {METRIC} at {EPOCH}") from error


def _write(scale: Scale, folder: Path, chosen: Sequence[Chosen]) -> Tuned:
    tuned = read_tuned(scale, folder).also(chosen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(tuned.path, tuned_text(scale, tuned))
    except OSError as error:
        raise UserError(
            f"{tuned.path} cannot be written: {error.strerror}. Set --tuned or $REPRO_TUNED to a folder you can write."
        ) from error
    return tuned
