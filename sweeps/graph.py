"""The graph of runs: which run reads which, and the id of each, which follows from the ids of those it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from repro import registry
from repro.config import Config, InputsConfig, check
from repro.errors import UserError
from repro.identity import run_id, scientific_fields
from repro.inputs import check_inputs
from sweeps.composer import Composer, Owner, explain
from sweeps.expansion import walk
from sweeps.schema import Variant
from sweeps.settings import override_value

#: Methods that specs may name before they are there: their cells say so, and everything else can be planned.
ANNOUNCED: tuple[str, ...] = ()

_Same = tuple[tuple[str, ...], tuple[tuple[str, tuple[str, ...]], ...]]


@dataclass
class Node:
    """One run.

    Attributes:
        overrides: the command line that trains it, its inputs included.
        fields: every setting of its identity, flat.
        inputs: ids of the runs it reads, labels before the teacher.
        stage: 0 without inputs, else one above that of its inputs.
        place: what needed it first.
        specs: names of the specs that need it, also through others; a dict for its order.
    """

    run_id: str
    overrides: tuple[str, ...]
    fields: dict[str, Any]
    inputs: tuple[str, ...]
    stage: int
    place: str
    specs: dict[str, None] = field(default_factory=dict)


class Graph:
    """Runs by id, inputs before their readers. A run is composed and identified once, however many others read it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self._composer = Composer()
        self._configs: dict[tuple[str, ...], Config] = {}
        self._by_variant: dict[int, Node] = {}
        self._by_settings: dict[_Same, Node] = {}

    def compose(self, wanted: Iterable[tuple[Owner, Variant]]) -> None:
        """Compose the runs ``wanted`` and all that they read, without their inputs; the variants must outlive the graph.

        Raises:
            UserError: as :meth:`sweeps.composer.Composer.compose`.
        """
        seen: set[int] = set()
        found: dict[tuple[str, ...], tuple[Owner, Variant]] = {}
        for owner, variant in wanted:
            for item in walk(variant, seen):
                if item.overrides not in self._configs:
                    found.setdefault(item.overrides, (owner, item))
        self._configs.update(zip(found, self._composer.compose_all(list(found.values())), strict=True))

    def config(self, variant: Variant) -> Config:
        """Return the configuration of a composed run, without its inputs."""
        return self._configs[variant.overrides]

    def fields(self, variant: Variant) -> dict[str, Any]:
        """Return every setting of the identity of a composed run, without its inputs."""
        return scientific_fields(self.config(variant))

    def add(self, owner: Owner, variant: Variant, *, spec: str, place: str) -> Node:
        """Return the node of a composed run that ``owner`` needs, and note that ``spec`` needs it and all that it reads.

        Raises:
            UserError: its inputs are not those that its method reads.
        """
        node = self._node(owner, variant, spec, place)
        self._mark(node, spec)
        return node

    def _node(self, owner: Owner, variant: Variant, spec: str, place: str) -> Node:
        if id(variant) in self._by_variant:
            return self._by_variant[id(variant)]
        read = [(role, [self._node(owner, item, spec, place) for item in items]) for role, items in variant.inputs]
        same = (variant.overrides, tuple((role, tuple(item.run_id for item in items)) for role, items in read))
        if same not in self._by_settings:
            what = f"{variant.name} (for {place})" if variant.name else place
            self._by_settings[same] = self._new(owner, variant, read, f"{spec}: {what}")
        self._by_variant[id(variant)] = self._by_settings[same]
        return self._by_settings[same]

    def _new(self, owner: Owner, variant: Variant, read: Sequence[tuple[str, Sequence[Node]]], place: str) -> Node:
        config = self.config(variant)
        ids = {role: [item.run_id for item in items] for role, items in read}
        try:
            if ids:
                # Not through Hydra: it takes a hundred times as long, and converts nothing in a list of names.
                inputs = InputsConfig(labels=ids.get("labels", []), teacher=next(iter(ids.get("teacher", [])), None))
                config = dataclasses.replace(config, inputs=inputs)
                check(config)
            check_inputs(config)
        except UserError as error:
            raise explain(error, owner, variant) from error
        name = run_id(config)
        overrides = [f"inputs.{role}={override_value(tuple(ids[role]) if role == 'labels' else ids[role][0])}" for role in ids]
        node = Node(
            run_id=name,
            overrides=(*variant.overrides, *overrides),
            fields=scientific_fields(config),
            inputs=tuple(name for names in ids.values() for name in names),
            stage=1 + max((item.stage for _, items in read for item in items), default=-1),
            place=place,
        )
        return self.nodes.setdefault(name, node)

    def _mark(self, node: Node, spec: str) -> None:
        # Whatever is marked has had its inputs marked.
        if spec not in node.specs:
            node.specs[spec] = None
            for name in node.inputs:
                self._mark(self.nodes[name], spec)


def not_built(variants: Iterable[Variant], seen: dict[int, frozenset[str]]) -> str | None:
    """Return the announced methods that these runs, or those that they read, need and that are not there; ``None`` where none is.

    ``seen`` remembers what has been looked at.
    """
    known = registry.choices("method")

    def missing(variant: Variant) -> frozenset[str]:
        if id(variant) not in seen:
            method = next((setting.value for setting in variant.settings if setting.key == "method"), None)
            own = {method} if isinstance(method, str) and method in ANNOUNCED and method not in known else set()
            seen[id(variant)] = frozenset(own).union(*(missing(item) for item in variant.read))
        return seen[id(variant)]

    names = frozenset[str]().union(*(missing(variant) for variant in variants))
    return ", ".join(name for name in ANNOUNCED if name in names) or None
