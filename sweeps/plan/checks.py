"""Whether a spec means something: what it reads of its runs will be there, and no two of its lines are the same.

Looked at when the runs are composed: only then it is known what they log, and for how many epochs they train.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from repro.config import registry
from repro.config.schema import Config
from repro.errors import did_you_mean
from repro.metric_names import METRICS, definition_of, is_headline
from sweeps.plan.graph import Graph
from sweeps.plan.sizes import num_classes
from sweeps.spec.data import Place
from sweeps.spec.expansion import Cell, walk
from sweeps.spec.load import FigureSpec, Panel, Spec, TableSpec
from sweeps.spec.models import Epoch
from sweeps.spec.rows import Row

#: The metrics that stand in files of the run folder.
_LOGGED = tuple(metric.name for metric in METRICS if not metric.mirror_only)


def check_meaning(spec: Spec, cells: Sequence[Cell], graph: Graph) -> None:
    """Check the planned cells of ``spec``; ``graph`` has their runs.

    Raises:
        SpecError: a metric does not exist, or some runs never log it; an epoch is beyond the last; a panel has nothing to draw in a row;
            two rows or columns are the same.
    """
    planned = [cell for cell in cells if cell.run_ids]
    if isinstance(spec, TableSpec):
        _check_metric(spec.value.metric, spec.value.at("metric"))
        for cell in planned:
            _check_reading(spec, cell, graph)
    elif isinstance(spec, FigureSpec):
        for panel in spec.panels:
            if panel.type == "curve":
                _check_metric(panel.metric, panel.at("metric"))
            for row in panel.rows:
                reasons = [_nothing_to_draw(panel, config) for config in _configs((cell for cell in planned if cell.row == row), graph)]
                if reasons and all(reasons):
                    said = f"{reasons[0]}. Name the rows that it draws (rows: [...]), or take it out."
                    raise panel.at("metric").error(f"panel '{panel.label}' draws nothing in row '{row}': {said}")
    if not spec.scale.rules:
        # A scale may make one run of several, such as one small network of all.
        _check_twins(spec, cells)


def _check_metric(name: str, place: Place) -> None:
    if name in _LOGGED:
        return
    try:
        metric = definition_of(name)
    except KeyError:
        raise place.error(f"there is no metric '{name}'.{did_you_mean(name, _LOGGED)} Allowed: {', '.join(_LOGGED)}.") from None
    if metric.mirror_only:
        raise place.error(f"the metric {name} is logged to W&B only and is in no run folder. Allowed: {', '.join(_LOGGED)}.")


def _check_reading(spec: TableSpec, cell: Cell, graph: Graph) -> None:
    metric, epoch = spec.value.metric, cell.epoch or spec.value.epoch
    if epoch.number is None and not is_headline(metric):
        raise spec.value.at("metric").error(
            f"{metric} is read off single epochs only, and in {cell.title} it is asked for at '{epoch}'. Use 'epoch N'."
        )
    for config in _configs([cell], graph):
        if why := never_logged(metric, config):
            raise spec.value.at("metric").error(
                f"in {cell.title}: {metric} is never logged: {why}. Leave the cell out (cells: skip) or read another."
            )
        _check_epoch(epoch, cell, config)


def _check_epoch(epoch: Epoch, cell: Cell, config: Config) -> None:
    place = epoch.place or cell.place
    epochs = config.optim.epochs
    if epoch.number is not None and epoch.number > epochs:
        raise place.error(
            f"in {cell.title}: epoch {epoch.number} is beyond the last, its runs train optim.epochs={epochs}. "
            f"Allowed: last, best_val, best_test, or 'epoch N' with N from 1 to {epochs}."
        )
    if epoch.rule == "best_val" and (why := never_logged("val/accuracy", config)):
        raise place.error(
            f"in {cell.title}: there is no best_val epoch: {why}. Allowed: last, best_test, or 'epoch N' with N from 1 to {epochs}."
        )


def _nothing_to_draw(panel: Panel, config: Config) -> str | None:
    if panel.type == "curve":
        if why := never_logged(panel.metric, config):
            return f"{panel.metric} is never logged: {why}"
        listed = isinstance(panel.classes, tuple) and panel.classes
        known = num_classes(config) if listed else None
        return f"dataset={config.dataset.name} has the classes 0 to {known - 1}" if listed and known and min(listed) >= known else None
    name = config.method.name
    if registry.get("method", name).build.trajectory != "instance":
        return f"method={name} has no instance labels"
    if not config.trajectory.record:
        return "trajectory.record=false keeps no labels"
    return "noise=none leaves no label wrong" if panel.type == "examples" and config.noise.name == "none" else None


def never_logged(metric: str, config: Config) -> str | None:
    """Return why a run of ``config`` never logs ``metric``, as far as its settings say; ``None`` where it may."""
    split, _, name = metric.partition("/")
    if split in ("peer_test", "peer_val") and registry.get("method", config.method.name).build.num_networks < 2:
        return f"method={config.method.name} trains no second network"
    if split in ("meta", "class_meta_accuracy", "val", "peer_val") and config.split.name == "full":
        return "split=full holds nothing out"
    if name.startswith("gradient_right_") and not config.trajectory.gradient:
        return "trajectory.gradient=false counts no gradients"
    if split == "weight" and not registry.get("method", config.method.name).build.weighs:
        return f"method={config.method.name} weighs no images"
    if (split == "noise" or metric in ("label/entropy_clean", "label/entropy_noisy")) and config.noise.name == "none":
        return "noise=none makes no label wrong"
    if split.startswith("class_") and name.isdigit() and (known := num_classes(config)) is not None and int(name) >= known:
        return f"dataset={config.dataset.name} has the classes 0 to {known - 1}"
    return None


def _configs(cells: Iterable[Cell], graph: Graph) -> Iterator[Config]:
    return (graph.config(variant) for cell in cells for variant in cell.variants)


def _check_twins(spec: Spec, cells: Sequence[Cell]) -> None:
    for kind, lines in (("row", spec.rows), ("column", spec.columns)):
        by_label: dict[str, list[Cell]] = {line.label: [] for line in lines}
        for cell in cells:
            by_label[cell.row if kind == "row" else cell.column].append(cell)
        seen: dict[tuple[object, ...], list[Row]] = {}
        for line in lines:
            content = tuple(map(_content, by_label[line.label]))
            if not any(content):
                continue
            for other in seen.setdefault(content, []):
                # A tuned value may be, and until it is tuned often is, the one that another line sets.
                if _tunings(by_label[line.label]) == _tunings(by_label[other.label]):
                    raise line.place.error(
                        f"the {kind} '{line.label}' is the same as '{other.label}' (line {other.place.line}): in every cell the same "
                        "settings, read at the same epoch. Take one out, or set what it should differ in."
                    )
            seen[content].append(line)


def _content(cell: Cell) -> tuple[object, ...]:
    """Return what a cell shows; nothing for one that is left out."""
    if cell.skip is not None:
        return ()
    if cell.recipe is not None:
        return (cell.setting, cell.recipe.overrides)
    return (cell.run_ids, cell.epoch) if cell.run_ids else (cell.row, cell.column)


def _tunings(cells: Sequence[Cell]) -> list[set[str]]:
    return [{use.tuning.name for variant in cell.variants for item in walk(variant) for use in item.uses} for cell in cells]
