"""Specs, scales and tuned values with random damage are refused in one message, or read and expanded."""

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from made_specs import FIGURE, RECIPE, SCALE, TABLE, write

from repro.errors import UserError
from sweeps.expand import digest, expand
from sweeps.plan import make_plan
from sweeps.scales import Scale, known_scales, load_scale
from sweeps.spec import known_specs, load_spec
from sweeps.tuned_values import read_tuned

pytestmark = pytest.mark.slow

CHOSEN = """\
schema: 1
scale: paper
tuned:
- {name: rate, dataset: digits, model: digits_cnn, chosen: {method.learning_rate: 5.0}, metric: val/accuracy, epoch: last, seed: 7,
   grid: [{values: {method.learning_rate: 5.0}, score: 0.5, run_id: x}]}
"""
ODD: list[Any] = [None, True, -1, 0, 1.5, float("nan"), 10**30, "", "x", "${seed}", [], [[]], {}, {"a": 1}, "40", "\u2028", ["x", "x"]]
Read = Callable[[Path], object]


def spec(path: Path) -> object:
    return digest(expand(load_spec(str(path)), Scale(title="paper")))


def scale(path: Path) -> object:
    return expand(load_spec(write(path.parent, TABLE, "table.yaml")), load_scale(str(path)))


def chosen(path: Path) -> object:
    return read_tuned(Scale(title=path.stem), path.parent)


def damaged_value(value: Any, rng: random.Random) -> Any:
    """``value`` with one of its parts dropped, renamed, repeated or replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        if rng.random() < 0.8:
            return value | {key: damaged_value(value[key], rng)}
        return {k: v for k, v in value.items() if k != key} | ({f"{key}x": value[key]} if rng.random() < 0.5 else {})
    if isinstance(value, list) and value and rng.random() < 0.85:
        index = rng.randrange(len(value))
        return [*value[:index], damaged_value(value[index], rng), *value[index:][: rng.randrange(2)], *value[index + 1 :]]
    return rng.choice(ODD)


def damaged_bytes(text: str, rng: random.Random) -> bytes:
    content = bytearray(text.encode())
    for _ in range(rng.randrange(1, 4)):
        start = rng.randrange(len(content))
        content[start : start + rng.randrange(3)] = rng.choice([b"", b"\xff", b"{", b"[", b": ", b"*a", b"&a ", b"\n- ", b"\0"])
    return bytes(content)


@pytest.mark.parametrize(
    ("text", "read"),
    [(TABLE, spec), (FIGURE, spec), (RECIPE, spec), (SCALE, scale), (CHOSEN, chosen)],
    ids=["table", "figure", "recipe", "scale", "tuned"],
)
def test_damage_is_refused_in_a_message_or_read(text: str, read: Read, tmp_path: Path) -> None:
    rng = random.Random(0)
    path = tmp_path / "paper.yaml"
    messages: list[str] = []
    for number in range(300):
        content = damaged_bytes(text, rng) if number % 3 == 0 else yaml.safe_dump(damaged_value(yaml.safe_load(text), rng)).encode()
        path.write_bytes(content)
        try:
            read(path)
        except UserError as error:
            messages.append(str(error))
    assert 30 < len(messages) < 300
    assert [message for message in messages if not re.search(r"(paper|table)\.yaml", message) or message.count("\n") > 4] == []


def test_a_damaged_table_is_planned_or_refused(tmp_path: Path) -> None:
    rng = random.Random(1)
    messages: list[str] = []
    for _ in range(40):
        path = write(tmp_path, yaml.safe_dump(damaged_value(yaml.safe_load(TABLE), rng)))
        try:
            make_plan([load_spec(path)], Scale(title="paper"), tmp_path / "runs")
        except UserError as error:
            messages.append(str(error))
    assert all("tried.yaml" in message for message in messages)


def test_what_comes_with_the_suite_is_read_at_every_scale() -> None:
    for name in known_scales():
        assert all(expand(load_spec(each), load_scale(name)) for each in known_specs())
