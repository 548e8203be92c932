"""Every setting of every choice, found in the dataclasses: it is refused in one message, or has its effect.

One that is added later is tried too. The inputs are the same at every call.
"""

import dataclasses
import random
import types
import typing
from typing import Any

import pytest

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import run_id
from repro.config.schema import NOT_SCIENTIFIC, Config
from repro.errors import UserError

pytestmark = pytest.mark.slow

PLAIN = {"method": "one_hot", "dataset": "digits", "seed": "0"}
ODD = ("nan", "-1e9", "1e400", "many", "[]", "[x]", "{}", "{a:1}", "null", "''", "${nope}", "a,b", "'", "(", "2.5", "true", "-0.0", "ä")


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting by its dotted name, the choices that a run with it needs, its type and its limits."""

    key: str
    choices: dict[str, str]
    kind: Any
    limits: dict[str, Any]

    def good(self, chance: random.Random) -> tuple[str, Any]:
        """Return a value within the limits, as it is typed and as the field then holds it."""
        kind = typing.get_args(self.kind)[0] if isinstance(self.kind, types.UnionType) else self.kind
        listed = typing.get_origin(kind) is list
        kind = typing.get_args(kind)[0] if listed else kind
        value = self._single(kind, chance)
        text = str(value).lower() if kind is bool else repr(value) if kind in (int, float) else f"'{value}'"
        return (f"[{text}]", [value]) if listed else (text, value)

    def _single(self, kind: Any, chance: random.Random) -> Any:
        if "choices" in self.limits:
            return chance.choice(self.limits["choices"])
        low = self.limits.get("at_least", self.limits.get("above", 0))
        high = self.limits.get("at_most", self.limits.get("below", low + 1000))
        if kind is bool:
            return chance.random() < 0.5
        if kind is int:
            return chance.randint(low, int(high))
        return low + (high - low) * chance.uniform(0.1, 0.9) if kind is float else chance.choice(("a", "b c", "ä/ö"))


def every_field() -> list[Field]:
    fields = []
    for section, kind in typing.get_type_hints(Config).items():
        configs = [(kind, {})]
        if section in registry.GROUPS:
            configs = [(choice.config, {section: choice.name}) for choice in registry.choices(section).values()]
        for config, choices in configs if dataclasses.is_dataclass(kind) else ():
            hints = typing.get_type_hints(config)
            named = [field for field in dataclasses.fields(config) if field.name != "name"]
            fields += [Field(f"{section}.{field.name}", choices, hints[field.name], dict(field.metadata)) for field in named]
    return fields


def outcome(settings: dict[str, str]) -> Config | str:
    try:
        return compose([f"{key}={value}" for key, value in settings.items()])
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("field", every_field(), ids=lambda field: f"{field.key}-{'-'.join(field.choices.values())}")
def test_a_value_is_refused_or_has_its_effect(field: Field) -> None:
    chance = random.Random(f"{field.key} {field.choices}")
    base = PLAIN | field.choices
    if base.get("noise", "none") != "none":
        base |= {"noise.annotator": "worst"} if base["noise"] == "human" else {"noise.rate": "0.25"}
    if base["dataset"] == "image_folder":
        base["dataset.folder"] = "a"
    section, _, name = field.key.partition(".")
    before = outcome(base)
    assert isinstance(before, Config), before
    text, value = field.good(chance)
    after = outcome(base | {field.key: text})
    if isinstance(after, Config):
        assert getattr(getattr(after, section), name) == value
        same = value == getattr(getattr(before, section), name)
        assert (run_id(after) == run_id(before)) == (same or section in NOT_SCIENTIFIC)
    else:
        assert field.key in after
    for odd in chance.sample(ODD, 3):
        refused = outcome(base | {field.key: odd})
        assert isinstance(refused, Config) or (refused and "Traceback" not in refused and len(refused.splitlines()) <= 5), (odd, refused)
    place = chance.randrange(len(name))
    misspelt = f"{section}.{name[:place]}{name[place + 1 :]}x"
    refused = outcome(base | {f"{chance.choice(['', '+', '++'])}{misspelt}": text})
    assert isinstance(refused, str)
    assert misspelt in refused
