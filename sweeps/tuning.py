"""Chooses settings by the results on validation images: the grids that specs need, their runs, and the best point of each.

One run is trained for each point of a grid. Its score is one number of its ``final.json``, of the validation set and at a rule that
does not look at the test set; nothing else of a run is read, so no number of the test set can take part.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repro.errors import UserError
from repro.files import number, write_text
from repro.manifest import open_manifest
from sweeps.expansion import Expansion
from sweeps.graph import Graph, Node, not_built
from sweeps.nodes import Place
from sweeps.parts import Tuning, TuningUse
from sweeps.plan import Plan, planned_runs, planned_state
from sweeps.scale import Scale
from sweeps.schema import Spec, Variant
from sweeps.settings import Setting
from sweeps.spec import with_tuned
from sweeps.tuned import Chosen, GridPoint, Key, Tuned, read_tuned, tuned_text

if TYPE_CHECKING:
    from sweeps.local import Outcome


@dataclass(frozen=True)
class Needed:
    """A tuning for one dataset and one model, as the first run that needs it does; ``spec`` is the spec of that run."""

    use: TuningUse
    spec: Spec

    @property
    def key(self) -> Key:
        """The tuning's name, the dataset and the model."""
        return self.use.key


#: A point of a grid: its settings and its run.
Planned = tuple[tuple[Setting, ...], Node]


def tune(specs: Sequence[Spec], scale: Scale, runs_folder: Path, tuned_folder: Path, execute: Callable[[Plan], Outcome]) -> list[Chosen]:
    """Do every tuning that ``specs`` need, those first whose values others need, and write what was chosen to ``tuned_folder``.

    ``execute`` trains the missing runs of a plan. Runs that are done are not trained again, so calling this again goes on. When a
    signal or the end of its time stopped ``execute``, what has been chosen until then is returned.

    Raises:
        UserError: a run of a grid failed, or diverged at every point; what the others of its level chose is written nevertheless.
    """
    tuned = read_tuned(scale, tuned_folder)
    finished: list[Chosen] = []
    number_of_levels = len(tunings_of([with_tuned(spec, tuned) for spec in specs], scale))
    for index in range(number_of_levels):
        # What was chosen before decides the runs that this level's read.
        now = [with_tuned(spec, tuned) for spec in specs]
        level = tunings_of(now, scale)[index]
        plan, points = plan_level(level, runs_folder)
        outcome = execute(plan)
        if outcome.stopped_by is not None or outcome.out_of_time:
            break
        chosen, problems = [], []
        for needed in level:
            try:
                chosen.append(_chosen(needed, points[needed.key], runs_folder, tuned.path, outcome.changed))
            except UserError as error:
                problems.append(str(error))
        if chosen:
            tuned = _write(scale, tuned_folder, chosen)
            finished.extend(chosen)
        if problems:
            raise UserError("\n".join(problems))
    return finished


def tunings_of(specs: Sequence[Spec], scale: Scale) -> tuple[tuple[Needed, ...], ...]:
    """Return the tunings that ``specs`` use, also through others, as levels: each needs values of earlier levels only.

    Cells of methods that are announced and not built are left out, and so are grids of such methods.

    Raises:
        UserError: two specs mean different tunings by one name; tunings wait for each other.
    """
    assert all(spec.scale == scale for spec in specs), "specs of another scale"
    search = _Search()
    for spec in specs:
        search.look_at(spec)
    search.look_below()
    return _levels(search.found, search.waits)


class _Search:
    """Finds the tunings that specs use, and what each waits for.

    Attributes:
        found: what is needed, in the order found.
        waits: the keys of the tunings whose values the runs of each have, their own or taken over.
    """

    def __init__(self) -> None:
        self.found: dict[Key, Needed] = {}
        self.waits: dict[Key, set[Key]] = {}
        self._expansions: dict[Key, Expansion] = {}
        self._queue: deque[Key] = deque()
        self._not_built: dict[int, frozenset[str]] = {}
        # What has been looked at is remembered by its id, which must not be given to another object.
        self._alive: list[object] = []

    def look_at(self, spec: Spec) -> None:
        """Note every tuning that the cells of ``spec`` need."""
        expansion = Expansion(spec)
        seen: set[int] = set()
        for cell in expansion.cells():
            self._alive.append(cell)
            variants = cell.variants if cell.recipe is None else (cell.recipe,)
            if not_built(variants, self._not_built) is None:
                self._note(_uses(variants, seen), spec, expansion)

    def look_below(self) -> None:
        """Note every tuning that the grids of those found need, after all cells: the first cell that needs a tuning says for what."""
        while self._queue:
            key = self._queue.popleft()
            needed, expansion = self.found[key], self._expansions[key]
            grid = [variant for _, variant in expansion.grid(needed.use)]
            self._alive.append(grid)
            if not_built(grid, self._not_built) is not None:
                del self.found[key]
                continue
            below = list(_uses(grid, set()))
            keys = needed.use.tuning.keys
            taken_over = {item.origin for item in expansion.base(needed.use).values() if item.key not in keys and item.origin is not None}
            self.waits[key] = {use.key for use in below} | taken_over
            self._note(below, needed.spec, expansion)

    def _note(self, uses: Iterable[TuningUse], spec: Spec, expansion: Expansion) -> None:
        for use in uses:
            known = next((item.use.tuning for key, item in self.found.items() if key[0] == use.key[0]), use.tuning)
            if known.place != use.tuning.place:
                raise use.place.error(f"tuning '{known.name}' also stands in {known.place}. Keep one, in a file that both specs share.")
            if use.key not in self._expansions:
                self.found[use.key] = Needed(use, spec)
                self._expansions[use.key] = expansion
                self._queue.append(use.key)


def _uses(variants: Iterable[Variant], seen: set[int]) -> Iterator[TuningUse]:
    """Return the tunings of ``variants`` and of all that they read, a reader's before those of its inputs, leaving out runs in ``seen``."""
    for variant in variants:
        if id(variant) not in seen:
            seen.add(id(variant))
            yield from variant.uses
            yield from _uses(variant.read, seen)


def _levels(found: dict[Key, Needed], waits: dict[Key, set[Key]]) -> tuple[tuple[Needed, ...], ...]:
    levels: list[tuple[Needed, ...]] = []
    settled: set[Key] = set()
    while len(settled) < len(found):
        level = tuple(item for key, item in found.items() if key not in settled and (waits[key] & found.keys()) <= settled)
        if not level:
            left = [item for key, item in found.items() if key not in settled]
            names = "; ".join(str(item.use) for item in left)
            raise left[0].use.place.error(
                f"these tunings wait for each other's values: {names}. A run that is read takes over its reader's tuned values; set "
                "them in that run."
            )
        levels.append(level)
        settled.update(item.key for item in level)
    return tuple(levels)


def grid_of(needed: Needed) -> tuple[tuple[tuple[Setting, ...], Variant], ...]:
    """Return each point of the grid with its run, at the spec's scale and with its chosen values."""
    return Expansion(needed.spec).grid(needed.use)


def plan_level(level: Sequence[Needed], folder: Path) -> tuple[Plan, dict[Key, tuple[Planned, ...]]]:
    """Return the plan of all runs of some grids, and for each tuning its points with their runs.

    Raises:
        UserError: a setting that does not exist or contradicts another one, with its file and line.
    """
    grids = {needed.key: grid_of(needed) for needed in level}
    graph = Graph()
    graph.compose((needed.use, variant) for needed in level for _, variant in grids[needed.key])
    points = {
        needed.key: tuple(
            (values, graph.add(needed.use, variant, spec=needed.spec.name, place=", ".join(needed.key[1:])))
            for values, variant in grids[needed.key]
        )
        for needed in level
    }
    specs = tuple({needed.spec.name: needed.spec for needed in level}.values())
    return Plan(folder, specs, planned_runs(graph.nodes.values(), folder), scale=specs[0].scale), points


def choose(points: Sequence[GridPoint], *, lowest: bool = False, otherwise: Sequence[Setting] = ()) -> GridPoint:
    """Return the point with the highest finite score, or the lowest; of several the one with the values ``otherwise``, else the first.

    So values that were declared for a reason give way to better ones only, not to others that score the same.

    Raises:
        UserError: no score is finite; the message names the runs.
    """
    finite = [point for point in points if math.isfinite(point.score)]
    if not finite:
        raise UserError(f"every run diverged, so there is nothing to choose from: {', '.join(point.run_id for point in points)}.")
    scores = [-point.score if lowest else point.score for point in finite]
    best = [point for point, score in zip(finite, scores, strict=True) if score == max(scores)]
    declared = {setting.override for setting in otherwise}
    return next((point for point in best if {setting.override for setting in point.values} == declared), best[0])


def _chosen(needed: Needed, planned: Sequence[Planned], folder: Path, path: Path, changed: Mapping[str, str]) -> Chosen:
    """Return what the finished runs of a grid say; those of ``changed``, which other code has made, say nothing."""
    tuning = needed.use.tuning
    points, missing = [], []
    for values, node in planned:
        try:
            if node.run_id in changed:
                raise UserError(f"made by other code: {changed[node.run_id]}")
            points.append(GridPoint(values, _score(folder / node.run_id, tuning), node.run_id))
        except UserError as error:
            missing.append(f"{node.run_id} ({error})")
    try:
        if missing:
            raise UserError(f"runs without a score: {', '.join(dict.fromkeys(missing))}.")
        best = choose(points, lowest=tuning.metric.endswith("loss"), otherwise=tuning.otherwise)
    except UserError as error:
        raise tuning.place.error(f"{needed.use}: nothing was chosen, {error}") from error
    name, dataset, model = needed.key
    return Chosen(
        name=name,
        dataset=dataset,
        model=model,
        values=best.values,
        metric=tuning.metric,
        epoch=str(tuning.epoch),
        seed=int(planned[0][1].fields["seed"]),
        grid=tuple(points),
        place=Place(path, 1),
    )


def _score(folder: Path, tuning: Tuning) -> float:
    state = planned_state(folder)
    if state != "done":
        raise UserError(state)
    results = open_manifest(folder).read_json("final.json")
    try:
        return number(results[tuning.metric][tuning.epoch.rule])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"its final.json has no {tuning.metric} at {tuning.epoch}") from error


def _write(scale: Scale, folder: Path, chosen: Sequence[Chosen]) -> Tuned:
    """Put ``chosen`` into the file of ``scale``, beside what stands there, and return all of it."""
    tuned = read_tuned(scale, folder).also(chosen)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(tuned.path, tuned_text(scale, tuned))
    except OSError as error:
        raise UserError(
            f"{tuned.path} cannot be written: {error.strerror}. Set --tuned or $REPRO_TUNED to a folder you can write."
        ) from error
    return tuned
