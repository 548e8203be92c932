"""Chooses settings by the results on validation images: the grids that specs need, their runs, and the best point of each.

One run is trained for each point of a grid. Its score is the validation accuracy after the last epoch in its ``final.json``; nothing
else of a run is read, so no number of the test set can take part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from repro.errors import UserError
from repro.files import number, write_text
from repro.runs.manifest import read_json
from sweeps.expand import Expansion, Use, Variant, uses_of
from sweeps.launch import Outcome
from sweeps.plan import Graph, Plan, planned_state
from sweeps.scales import Scale
from sweeps.spec import Settings, Spec
from sweeps.tuned_values import Chosen, Key, Point, read_tuned
from sweeps.yaml_files import SpecError, shown

#: A point of a grid: its settings and the id of its run.
_Tried = tuple[Settings, str]

#: What is compared, and where in a run it is read.
METRIC, EPOCH = "val/accuracy", "last"

_COMMENT = """\
# Written by `python -m sweeps tune`: settings chosen by the score of one run for each point of a grid, on validation images alone.
# No number of the test set takes part. Calling it again keeps what was chosen from the same runs; without its entry here a spec uses
# what it says under `otherwise`, and can be tuned again.
"""


@dataclass(frozen=True)
class Needed:
    """A tuning for one dataset and one model, as the first run that needs it does.

    Attributes:
        expansion: that of this run's spec.
        grid: each point with its run.
        waits: the tunings whose values the runs of the grid have.
    """

    use: Use
    expansion: Expansion
    grid: list[tuple[Settings, Variant]]
    waits: frozenset[Key]


def tune(specs: Sequence[Spec], scale: Scale, runs: Path, folder: Path, execute: Callable[[Plan], Outcome]) -> list[Chosen]:
    """Do every tuning that ``specs`` need, those first whose values others need, and write what was chosen to ``folder``.

    ``execute`` trains the missing runs of a plan. Runs that are done are not trained again, so calling this again resumes. Of a grid
    whose scores are in ``folder`` already nothing is trained, whatever the runs folder holds: on another processor the same runs score a
    little differently, and finished runs have the values that were chosen first. When a signal or the end of its time stopped
    ``execute``, what the grids that are whole chose is written and returned.

    Raises:
        UserError: a run of a grid failed, or diverged at every point; what the others chose is written nevertheless.
    """
    finished: dict[Key, Chosen] = {}
    # What was chosen before decides the runs of those that wait for it.
    while level := _next_level(specs, scale, tuned := read_tuned(scale, folder), finished):
        plan, tried = _plan(list(level.values()), scale, runs)
        scored = {key: [(point.values, point.run_id) for point in chosen.grid] for key, chosen in tuned.items()}
        if kept := {key: tuned[key] for key in level if scored.get(key) == tried[key]}:
            names = "; ".join(str(level[key].use) for key in kept)
            print(f"{names}: {folder} has the scores of these runs; without their entry there, they are trained again")
            finished |= kept
            continue
        outcome, problems = execute(plan), list[str]()
        for key, needed in level.items():
            try:
                grid = _scores(tried[key], runs, outcome.changed)
                best = choose(grid, needed.expansion.tunings[key[0]].otherwise)
            except UserError as error:
                problems.append(f"{needed.use}: nothing was chosen: {error}")
                continue
            (name, dataset, model), seed = key, plan.runs[best.run_id].fields["seed"]
            finished[key] = Chosen(
                name=name, dataset=dataset, model=model, chosen=best.values, metric=METRIC, epoch=EPOCH, seed=seed, grid=grid
            )
        if finished:
            _write(scale, folder, tuned | finished)
        if outcome.stopped_by is not None or outcome.out_of_time:
            break
        if problems:
            raise UserError("\n".join(problems))
    return list(finished.values())


def _next_level(specs: Iterable[Spec], scale: Scale, tuned: Mapping[Key, Chosen], finished: Mapping[Key, Chosen]) -> dict[Key, Needed]:
    """Return the tunings that can be done next, since all that they wait for are ``finished``; nothing when all are.

    Raises:
        SpecError: the others wait for each other's values.
    """
    left = {key: needed for key, needed in tunings_of(specs, scale, tuned).items() if key not in finished}
    ready = {key: needed for key, needed in left.items() if not needed.waits & left.keys()}
    if left and not ready:
        names = "; ".join(str(needed.use) for needed in left.values())
        raise SpecError(
            f"these tunings wait for each other's values: {names}. A run that is read takes over its reader's tuned values; set them in "
            "that run."
        )
    return ready


def tunings_of(specs: Iterable[Spec], scale: Scale, tuned: Mapping[Key, Chosen]) -> dict[Key, Needed]:
    """Return the tunings that ``specs`` use, also through others, with the grids that they have when ``tuned`` is chosen.

    Raises:
        SpecError: two specs mean different tunings by one name.
    """
    found: dict[Key, Needed] = {}
    queue: list[tuple[Use, Expansion]] = []
    for spec in specs:
        expansion = Expansion(spec, scale, tuned)
        queue += [(use, expansion) for use in uses_of(variant for cell in expansion.cells() for variant in cell.variants)]
    for use, expansion in queue:
        name = use.key[0]
        tuning = expansion.tunings[name]
        for other in found.values():
            if other.use.key[0] == name and other.expansion.tunings[name] != tuning:
                files = f"{shown(expansion.spec.path)} and {shown(other.expansion.spec.path)}"
                raise SpecError(f"{files} mean different tunings by '{name}'. Keep one, in a file that both specs share.")
        if use.key not in found:
            grid = expansion.grid(use)
            below = uses_of(variant for _, variant in grid)
            taken_over = {origin for _, variant in grid for origin in variant.origins.values()}
            found[use.key] = Needed(use, expansion, grid, frozenset(taken_over | {each.key for each in below}))
            # The first cell that needs a tuning says for what, so what grids need comes after all cells.
            queue += [(each, expansion) for each in below]
    return found


def _plan(level: Sequence[Needed], scale: Scale, folder: Path) -> tuple[Plan, dict[Key, list[_Tried]]]:
    """Return the plan of all runs of some grids, and of each the points with the ids of their runs."""
    graph = Graph(folder)
    tried: dict[Key, list[_Tried]] = {}
    for needed in level:
        spec, (_, *place) = needed.expansion.spec, needed.use.key
        tried[needed.use.key] = [(values, graph.add(spec, variant, ", ".join(place))) for values, variant in needed.grid]
    runs = {name: replace(run, specs=(run.place.partition(":")[0],)) for name, run in graph.runs.items()}
    specs = {needed.expansion.spec.name: needed.expansion.spec for needed in level}
    return Plan(folder, tuple(specs.values()), scale, runs, []), tried


def choose(points: Sequence[Point], otherwise: Settings) -> Point:
    """Return the point with the highest finite score; of several the one with the values ``otherwise``, else the first.

    So values that were declared for a reason give way to better ones only, not to others that score the same.

    Raises:
        UserError: no score is finite; the message names the runs.
    """
    highest = max((point.score for point in points if math.isfinite(point.score)), default=None)
    if highest is None:
        raise UserError(f"every run diverged: {', '.join(point.run_id for point in points)}.")
    best = [point for point in points if point.score == highest]
    return next((point for point in best if point.values == otherwise), best[0])


def _scores(tried: Iterable[_Tried], folder: Path, changed: Collection[str]) -> list[Point]:
    """Return the points with the scores of their finished runs; those of ``changed`` have none."""
    points, missing = [], []
    for values, name in tried:
        state = "made by a different version of the code" if name in changed else planned_state(folder / name)
        if state != "done":
            missing.append(f"{name} ({state})")
        elif METRIC in (final := read_json(folder / name, "final.json")):
            points.append(Point(values=values, score=number(final[METRIC][EPOCH]), run_id=name))
        else:
            missing.append(f"{name} (it has no {METRIC}; its split has no validation images)")
    if missing:
        raise UserError(f"runs without a score: {', '.join(missing)}.")
    return points


def _write(scale: Scale, folder: Path, tuned: Mapping[Key, Chosen]) -> None:
    path = folder / f"{scale.name}.yaml"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(path, tuned_text(scale, tuned))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}. Set --tuned or $REPRO_TUNED to a folder you can write.") from error


def tuned_text(scale: Scale, tuned: Mapping[Key, Chosen]) -> str:
    """Return the content of the file of chosen values: the same values give the same bytes."""
    document = {"schema": 1, "scale": scale.name, "tuned": [tuned[key].model_dump() for key in sorted(tuned)]}
    return _COMMENT + yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=130, allow_unicode=True)
