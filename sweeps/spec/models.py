"""What the models of all YAML files have in common: pydantic's checks, and its errors as one line with file, line and remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError

from repro.errors import did_you_mean
from sweeps.spec.data import Map, Place, Seq, SpecError, Text, found, is_plain, shortened

T = TypeVar("T")
_Model = TypeVar("_Model", bound="Model")
_MAPPING = "a mapping (key: value)"


def wrong(wanted: str) -> PydanticCustomError:
    """Return the error that a value is not ``wanted``."""
    return PydanticCustomError("wrong", "wrong", {"wanted": wanted})


def refused(message: str) -> PydanticCustomError:
    """Return an error with this message; :func:`validate` puts the name of the value in front of it."""
    return PydanticCustomError("refused", "refused", {"message": message})


def mapping(value: object) -> Map:
    """Return ``value``, which must be a mapping."""
    if not isinstance(value, Map):
        raise wrong(_MAPPING)
    return value


class Model(BaseModel):
    """A mapping of a file that a user wrote, checked.

    Attributes:
        node: the mapping; ``None`` for what code has made.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, populate_by_name=True)
    #: Fields that no file has.
    hidden: ClassVar[tuple[str, ...]] = ()

    node: Map | None = Field(default=None, repr=False)

    @classmethod
    def allowed_keys(cls, data: Map) -> list[str]:
        """Return the keys that ``data`` may have."""
        return [field.alias or name for name, field in cls.model_fields.items() if name not in ("node", *cls.hidden)]

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, data: object) -> object:
        if type(data) is dict:  # made by code
            return data
        data = mapping(data)
        data.only(cls.allowed_keys(data))
        return {**data, "node": data}

    def __eq__(self, other: object) -> bool:
        """Say whether both mean the same, wherever they stand."""
        return type(self) is type(other) and isinstance(other, Model) and self._content == other._content

    def __hash__(self) -> int:
        return hash((type(self), *(value for value in self._content.values() if isinstance(value, str | int))))

    @property
    def _content(self) -> dict[str, Any]:
        return {name: value for name, value in self if name != "node"}

    @property
    def place(self) -> Place:
        """Where it stands."""
        return Place(Path(), 1) if self.node is None else self.node.place

    def at(self, key: str) -> Place:
        """Return where the value of ``key`` stands, or the whole where it has none."""
        return self.place if self.node is None else self.node.at.get(key, self.place)


def validate(model: type[_Model], data: Map, context: object = None) -> _Model:
    """Return ``data`` as a ``model``.

    Raises:
        SpecError: the first mistake.
    """
    try:
        return model.model_validate(data, context=context)
    except ValidationError as error:
        raise _explain(data, error.errors(include_url=False)[0]) from None


def _explain(data: Map, error: Any) -> SpecError:
    """Return an error of pydantic as a message with file, line, name and remedy."""
    name, place = data.name, data.place
    value: Any = data
    *above, last = error["loc"] or ("",)
    for part in (*above, last):
        if isinstance(value, Map | Seq) and part in value.at:
            name, place, value = value.below(part), value.at[part], value[part]
            name = value.name if isinstance(value, Map | Seq) else name
        elif isinstance(value, Map) and error["type"] == "missing" and part == last:
            return place.error(f"{value.below(part)} is missing.")
    context = error.get("ctx", {})
    if error["type"] == "literal_error" and isinstance(value, str):
        options = re.findall(r"'([^']*)'", context["expected"])
        return place.error(f"{name}: '{shortened(value)}' does not exist.{did_you_mean(value, options)} Allowed: {', '.join(options)}.")
    if "message" in context:
        return place.error(f"{name}{context['message']}")
    wanted = {"dict_type": _MAPPING, "literal_error": f"one of {context.get('expected')}"}.get(error["type"])
    wanted = context.get("wanted", wanted)
    if wanted is None:
        return place.error(f"{name}: {error['msg']}, found {found(value)}.")
    return place.error(f"{name} must be {wanted}, found {found(value)}.")


def text(value: object) -> Text:
    """Return a text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise wrong('a text; a number or a truth value that is meant as text needs quotes, such as "40"')
    return Text(value.strip(), value.place if isinstance(value, Text) else Place(Path(), 1))


def line(value: object) -> Text:
    """Return a text that is not empty and has neither a line break nor another control character."""
    one = text(value)
    if not is_plain(one):
        raise wrong("a text of one line")
    return one


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or (isinstance(value, int) and value.bit_length() > 1_000):
        raise wrong("a number")
    return float(value)


def _finite(value: object) -> float:
    number = _number(value)
    if not math.isfinite(number):
        raise wrong("a number")
    return number


def _items(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise wrong("a list")
    if not value:
        raise refused(" is empty: it needs at least one entry.")
    return value


def mappings(value: object) -> list[Map]:
    """Return a list of a file with at least one entry, which must all be mappings."""
    _items(value)
    assert isinstance(value, Seq)
    for index, item in enumerate(value):
        if not isinstance(item, Map):
            raise value.at[index].error(f"{value.below(index)} must be {_MAPPING}, found {found(item)}.")
    return value


def integer(at_least: int, at_most: int) -> PlainValidator:
    """Return the check for an integer within the limits."""

    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not at_least <= value <= at_most:
            raise wrong(f"an integer from {at_least} to {at_most}")
        return value

    return PlainValidator(check)


def matching(pattern: str, wanted: str) -> AfterValidator:
    """Return the check for a text of one line that matches ``pattern`` as a whole."""
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise wrong(wanted)
        return value

    return AfterValidator(check)


def keys(allowed: Iterable[str] | None = None, required: Iterable[str] = ()) -> BeforeValidator:
    """Return the check for a mapping whose keys are among ``allowed`` (``None``: any), with all that are ``required``."""

    def check(value: object) -> object:
        mapping(value).only(mapping(value) if allowed is None else allowed, required)
        return value

    return BeforeValidator(check)


#: A text that is not empty; one without a line break or another control character.
AnyText = Annotated[str, PlainValidator(text), AfterValidator(str)]
Line = Annotated[str, PlainValidator(line), AfterValidator(str)]
#: A text that knows its place.
Placed = Annotated[Text, PlainValidator(text)]
Number = Annotated[float, PlainValidator(_number)]
Finite = Annotated[float, PlainValidator(_finite)]
#: A list with at least one entry.
Items = Annotated[tuple[T, ...], BeforeValidator(_items)]


def choose(value: object, options: Iterable[str]) -> Text:
    """Return one of ``options``."""
    one, known = text(value), tuple(options)
    if one not in known:
        near = did_you_mean(one, known)
        raise refused(f": '{shortened(one)}' does not exist.{near} Allowed: {', '.join(known)}.")
    return one


def _listed(value: object) -> object:
    if not isinstance(value, Seq):
        return (value,)
    for index, item in enumerate(value):
        if item in value[:index]:
            raise value.error(index, f"{found(item)} is given twice. Keep one.")
    return _items(value)


#: One text, or a list of several.
Names = Annotated[tuple[Placed, ...], BeforeValidator(_listed)]
#: The same numbers or names not twice.
Unique = Annotated[tuple[T, ...], BeforeValidator(_items), BeforeValidator(_listed)]


#: Where in a run a value is read: after the last epoch, at the best validation accuracy, at the best test accuracy.
EPOCH_RULES = ("last", "best_val", "best_test")


@dataclass(frozen=True)
class Epoch:
    """Where in a run a value is read: one of :data:`EPOCH_RULES`, or after ``number`` completed epochs (rule ``epoch``).

    Attributes:
        place: where a file says so.
    """

    rule: str
    number: int | None = None
    place: Place | None = field(default=None, compare=False)

    def __str__(self) -> str:
        """Return the rule as a spec writes it."""
        return self.rule if self.number is None else f"epoch {self.number}"


def read_epoch(value: object, info: ValidationInfo) -> Epoch:
    """Return an epoch rule; every ``epoch N`` is ``numbered_epochs`` of the context, if that has one, as scales with fewer epochs do."""
    if isinstance(value, Epoch):  # made by code
        return value
    rule = text(value)
    number = re.fullmatch(r"epoch ([1-9]\d{0,8})", rule, re.ASCII)
    if number:
        numbered = (info.context or {}).get("numbered_epochs")
        return Epoch("epoch", int(number[1]), rule.place) if numbered is None else Epoch(numbered, place=rule.place)
    if rule not in EPOCH_RULES:
        near = did_you_mean(rule, EPOCH_RULES)
        allowed = f"{', '.join(EPOCH_RULES)}, or 'epoch N' with N completed epochs, from 1"
        raise refused(f": there is no epoch rule '{shortened(rule)}'.{near} Allowed: {allowed}.")
    return Epoch(str(rule), place=rule.place)


EpochRule = Annotated[Epoch, PlainValidator(read_epoch)]
Metric = Annotated[AnyText, matching(r"\w+/\w+", "the name of a metric, such as test/accuracy")]
#: A metric, or a series per class, such as class_meta_accuracy/{k}.
MetricFamily = Annotated[AnyText, matching(r"\w+/(\w+|\{k\})", "the name of a metric, such as test/accuracy")]
