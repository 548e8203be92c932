"""Thousands of command lines of one run: each is refused in one message, or every setting on it has its effect.

The settings are found in the registry and the dataclasses, so one that is added later is tried too. The inputs are the same at every call.
"""

import collections
import dataclasses
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from repro.config import registry
from repro.config.compose import compose
from repro.config.identity import run_id
from repro.config.overrides import check_given_once
from repro.config.schema import NOT_SCIENTIFIC, Config
from repro.errors import UserError

pytestmark = pytest.mark.slow

GROUPS = ("method", "dataset", "model", "noise")
CHOICES = {group: registry.options(group) for group in (*GROUPS, "split", "augment", "optim", "exec", "tracker")}
DEFAULT = {"method": "one_hot", "dataset": "digits"}
MIXED: tuple[dict[str, str], ...] = (
    {},
    {"method": "instance_labels", "split": "fold"},
    {"dataset": "cifar100", "model": "wrn_28_10", "noise": "uniform"},
    {"dataset": "cifar10", "optim": "setting_a", "augment": "reflect_crop_flip"},
    {"method": "class_labels", "exec": "fast", "tracker": "none"},
)
SAMPLES = 7600

counts: collections.Counter[str] = collections.Counter()


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting: its dotted name, its type, its limits, and the choice that has it."""

    key: str
    kind: Any
    limits: dict[str, Any]
    choice: str | None

    @property
    def optional(self) -> bool:
        return isinstance(self.kind, types.UnionType)

    @property
    def plain(self) -> Any:
        return next(kind for kind in typing.get_args(self.kind) if kind is not type(None)) if self.optional else self.kind


def fields_of(section: str, config: Any, choice: str | None) -> list[Field]:
    hints = typing.get_type_hints(config)
    return [Field(f"{section}.{field.name}", hints[field.name], dict(field.metadata), choice) for field in dataclasses.fields(config)]


def every_field() -> list[Field]:
    found = []
    for name, kind in typing.get_type_hints(Config).items():
        if name in GROUPS:
            for choice in registry.choices(name).values():
                found += fields_of(name, choice.config, f"{name}={choice.name}")
        elif dataclasses.is_dataclass(kind):
            found += fields_of(name, kind, None)
        else:
            found.append(Field(name, kind, {}, None))
    return found


FIELDS = every_field()
NAMES = sorted({field.key for field in FIELDS})

NOTHING = object()


def quoted(text: str) -> str:
    return "'" + text.replace("'", "\\'") + "'"


def good_values(field: Field) -> st.SearchStrategy[tuple[str, Any]]:
    """Return values that the field's own limits allow."""
    limits, kind = field.limits, field.plain
    items = typing.get_args(kind)[0] if typing.get_origin(kind) is list else None
    single = items or kind
    values: st.SearchStrategy[Any]
    if single is bool:
        values = st.booleans()
    elif single is int:
        values = st.integers(int(limits.get("at_least", 0)), int(limits.get("at_most", 10**6)))
    elif single is float:
        low, high = limits.get("at_least", limits.get("above", 0.0)), limits.get("at_most", limits.get("below", 1e4))
        values = st.floats(low, high, exclude_min="above" in limits, exclude_max="below" in limits).map(lambda number: number + 0.0)
    elif "choices" in limits:
        values = st.sampled_from(limits["choices"])
    else:
        values = st.text("abcxyzABC019_-./ äπ漢", min_size=1, max_size=30).filter(lambda text: text == text.strip())

    def written(value: Any) -> str:
        if isinstance(value, list):
            return f"[{','.join(map(written, value))}]"
        if value is None:
            return "null"
        return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, int | float) else quoted(value)

    if items:
        values = st.lists(values, max_size=4)
    if field.optional:
        values |= st.none()
    return values.map(lambda value: (written(value), value))


#: Two spaces stand between them.
_NUMBERS = r"""
nan  -nan  inf  -inf  -0  -0.0  1e308  1e309  -1e308  1e-320  0  0.0  -1  1e3  1.  .5  1_0  010  0x10  true  False  yes  on  2.5  1e1
+3  --3  9007199254740993  ٣
"""
ODD_NUMBERS = (*re.split(r"  |\n", _NUMBERS.strip()), "10" * 15, "1" * 400, "9" * 5000)
_TEXTS = r"""
''  ""  ' '  null  None  ???  '???'  []  [1,  [1,2]  [[1]]  [a,'b']  {}  {a: 1}  {a: {b: 2}}  a,b  choice(1,2)  range(0,3)
interval(0,1)  glob(*)  sort([2,1])  shuffle([1,2])  int(3)  float(x)  str([1])  (  )  'unclosed  un"closed  a'b  a=b  a==b  =  a b  ä
'ä'  漢字  😀  '😀'  \  '\\'  \$  $  $x  @a  a@b  a:b  /  ../..  ~  %s  {  *  ${nope}  ${seed}  ${optim}  ${optim.epochs}
${optim.learning_rate}  ${method.name}  ${.name}  ${..seed}  ${  ${}  ${oc.env:NO_SUCH}  ${oc.env:HOME}  ${oc.decode:'}
${oc.create:{a: 1}}  ${nope:1}  '${nope}'  ${hydra:job.name}  ${a${b}}  [${nope}]  [${seed}]  x${seed}y  \${seed}  ${now:%Y}
"""
ODD_TEXTS = (
    *re.split(r"  |\n", _TEXTS.strip()),
    *("", "\ta", "a\nb", "'a\nb'", "'\x00'", "\x00", "'\x1b[31m'", "\udcff", "'\udcff'", "'\u2028'", "'\u202e'"),
    *("x" * 300, "'" + "x" * 5000 + "'", "y" * 20000, "[" * 500, "${" * 300),
)


def misspelt(draw: st.DrawFn, key: str) -> str:
    place = draw(st.integers(0, len(key) - 1))
    letter = draw(st.sampled_from("aexz_."))
    how = draw(st.integers(0, 4))
    changed = (key[:place] + key[place + 1 :], key[:place] + letter + key[place:], key[:place] + letter + key[place + 1 :], key.upper())
    return (
        changed[how]
        if how < 4
        else draw(st.sampled_from(("", " ", "=", "a", "hydra.run.dir", "hydra", "schema", "_self_", "defaults", "ä")))
    )


@dataclasses.dataclass(frozen=True)
class Line:
    """A command line, and what each of its settings must then be; ``None`` where it is known to be wrong."""

    texts: tuple[str, ...]
    wanted: dict[str, Any] | None
    wrong: str | None = None


@st.composite
def lines(draw: st.DrawFn) -> Line:
    """Return a command line of a few settings, of which at most one is odd."""
    field = draw(st.sampled_from(FIELDS))
    base = dict(DEFAULT)
    if field.choice:
        group, _, name = field.choice.partition("=")
        base[group] = name
    if base == DEFAULT:
        base |= draw(st.sampled_from(MIXED))
    wanted: dict[str, Any] = {"seed": draw(st.integers(0, 5))}
    texts = [*(f"{group}={name}" for group, name in base.items()), f"seed={wanted['seed']}"]
    if base.get("split") == "fold" and field.key != "split.fold":
        texts.append("split.fold=1")
        wanted["split.fold"] = 1
    if base.get("noise", "none") != "none" and field.key != "noise.rate":
        texts.append("noise.rate=0.25")
        wanted["noise.rate"] = 0.25
    how = draw(st.sampled_from(("good", "good", "good", "odd", "odd", "number", "misspelt", "sign", "form", "choice")))
    written, value = draw(good_values(field))
    key, wrong = field.key, None
    text = f"{key}={written}"
    if how == "odd":
        text, value = f"{key}={draw(st.sampled_from(ODD_TEXTS))}", NOTHING
    elif how == "number":
        text, value = f"{key}={draw(st.sampled_from(ODD_NUMBERS))}", NOTHING
    elif how == "misspelt":
        key = misspelt(draw, key)
        text = f"{draw(st.sampled_from(('', '', '+', '++', '~')))}{key}={written}"
        wrong = text if key not in NAMES and key.strip() not in CHOICES else None
        value = NOTHING
    elif how == "sign":
        text = wrong = f"{draw(st.sampled_from(('+', '++', '~')))}{key}={written}"
    elif how == "form":
        section, _, name = key.rpartition(".")
        forms = (
            f"{section}={{{name}: {written}}}",
            f"{key}@x={written}",
            f"{key}@x:y={written}",
            f"~{key}",
            f"{key.replace('.', '/')}={written}",
        )
        forms += (f"hydra.{key}={written}", f"+hydra/{section}=x", f"{section}={written}", f"{key}.x={written}", f"{key}[0]={written}", key)
        text, value = draw(st.sampled_from(forms)), NOTHING
        wrong = text if not text.startswith(f"{key}=") else None
    elif how == "choice":
        base_texts = [f"{group}={name}" for group, name in DEFAULT.items()]
        texts = [*base_texts, f"seed={wanted['seed']}"]
        wanted = {"seed": wanted["seed"]}
        group = draw(st.sampled_from(sorted(set(CHOICES) - set(DEFAULT))))
        name = draw(st.sampled_from([*CHOICES[group], *ODD_TEXTS, *ODD_NUMBERS]))
        sign = draw(st.sampled_from(("", "", "", "+", "++", "~")))
        text = f"{sign}{group}={name}"
        wrong = text if sign or name not in CHOICES[group] else None
        value = NOTHING
    # The seed stands there already.
    texts = [given for given in texts if not given.startswith(f"{key}=")] + [text]
    if value is NOTHING:
        wanted.pop(key, None)
    else:
        wanted[key] = value
    return Line(tuple(draw(st.permutations(texts))), None if wrong else wanted, wrong)


def held(config: Config, key: str) -> Any:
    found: Any = config
    for part in key.split("."):
        found = getattr(found, part)
    return found


def same(value: Any, other: Any) -> bool:
    if isinstance(value, list):
        return isinstance(other, list) and len(value) == len(other) and all(map(same, value, other))
    return bool(value == other) and (type(value) is type(other) or {type(value), type(other)} == {int, float})


def readable(message: str) -> None:
    assert message
    assert "Traceback" not in message
    assert "object_type" not in message
    assert "append to your config" not in message
    for line in message.splitlines():
        assert len(line) < 1500, line
        assert all(char.isprintable() for char in line), ascii(line)


def refused(line: Line) -> str | None:
    """Return the message with which the line is refused; where it is not, check what it makes."""
    try:
        check_given_once(line.texts)
        config = compose(line.texts)
        name = run_id(config)
    except UserError as error:
        return str(error)
    assert line.wrong is None, f"{line.texts} was accepted"
    for key, value in line.wanted.items():
        assert same(held(config, key), value), (line, key, held(config, key))
    for text in line.texts:
        section, _, choice = text.partition("=")
        # Of split, some presets differ in their numbers only.
        if section in CHOICES and section != "split":
            assert held(config, section).name == choice
    other = compose([text for text in line.texts if text.startswith(("method=", "dataset=", "seed="))])
    scientific = [section.name for section in dataclasses.fields(Config) if section.name not in NOT_SCIENTIFIC]
    equal = all(getattr(config, section) == getattr(other, section) for section in scientific)
    assert (run_id(other) == name) == equal, line
    return None


@settings(
    max_examples=SAMPLES, derandomize=True, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
)
@given(lines())
def fuzz(line: Line) -> None:
    counts["inputs"] += 1
    message = refused(line)
    counts["accepted" if message is None else "refused"] += 1
    if message is None:
        return
    readable(message)
    if line.wrong:
        counts["known to be wrong"] += 1
        # Control characters are shown as escapes, so only a name without is looked for.
        first = re.split(r"[=@.\[]", line.wrong.lstrip("+~"))[0].strip()
        assert first in message or not first.isprintable(), (line, message)


def test_every_line_is_refused_or_has_its_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fuzz()
    print(dict(counts))
    assert counts["inputs"] >= 7000
    assert counts["accepted"] > 1000
    assert counts["refused"] > 1000
    assert not list(tmp_path.iterdir())
