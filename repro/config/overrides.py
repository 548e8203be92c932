"""What a user types for one run, read with Hydra's grammar: ``KEY=VALUE``, and what else that grammar knows and a run has no use for."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl  # the only place Hydra lists the options of a group
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException

from repro.errors import UserError, shown

#: Longer than any list of inputs; Hydra's parser would take minutes for a megabyte.
LONGEST_TEXT = 10_000

#: More runs than anybody trains one after the other: ``range(0,1e9)`` is a slip.
MOST_RUNS = 10_000


@dataclass(frozen=True)
class Given:
    """One setting that was typed.

    Attributes:
        text: as it was typed.
        key: the name of a group or of a setting, without Hydra's signs.
        value: ``None``, a bool, a number, a text, a list or a dict; quotes are gone.
        refusal: why this form has no use here, although the key may be right; ``None`` for a plain ``KEY=VALUE``.
    """

    text: str
    key: str
    value: Any
    refusal: str | None = None

    @property
    def shown(self) -> str:
        """The text as a message shows it: on one line, and not too long."""
        return shown(self.text)


def read(texts: Sequence[str]) -> list[Given]:
    """Return the settings that ``texts`` give; of two with one key the later one, as ``--set`` of a grid is put on top of its spec.

    Raises:
        UserError: a text is no ``KEY=VALUE``, has several values, or is about Hydra itself.
    """
    return list({given.key: given for given in map(_read, texts)}.values())


def check_given_once(texts: Sequence[str]) -> None:
    """Check that no key is given two values on one command line, where one of them would be without effect.

    Raises:
        UserError: one is; or as :func:`read`.
    """
    seen: dict[str, str] = {}
    for text in texts:
        key = _parse(text).key_or_group
        before = seen.setdefault(key, text)
        if before != text:
            raise UserError(f"{key} is given twice: {shown(before)} and {shown(text)}. Only one can have an effect; leave the other out.")


def _read(text: str) -> Given:
    override = _parse(text)
    key = override.key_or_group
    if override.is_sweep_override():
        raise UserError(
            f"{shown(text)}: several values. -m trains a run for each; a list is written {key}=[A,B], and a text with a comma or brackets "
            f"in quotes: '{key}=\"A,B\"'."
        )
    value = override.value()
    plain = f"{key}={shown(text.partition('=')[2]) or 'VALUE'}"
    refusal = None
    if override.is_delete():
        refusal = f"nothing can be taken out of a run's settings. Give {key} the value it shall have: {key}=VALUE."
    elif override.package is not None:
        refusal = f"a choice has one place here, and @ would move it to another. Write {plain}."
    elif override.is_add() or override.is_force_add():
        refusal = f"there is nothing to add, as {key} is there already. Write {plain}."
    return Given(text, key, value, refusal)


def _parse(text: str) -> Override:
    if len(text) > LONGEST_TEXT:
        raise UserError(f"{shown(text)}: {len(text)} characters, and at most {LONGEST_TEXT} are read.")
    # Hydra's own keys decide where Hydra writes and what it starts: none of them is a setting of a run, however it is written.
    name = text.lstrip("+~ ")
    if name.startswith(("hydra.", "hydra/", "hydra=", "hydra@")) or name == "hydra":
        raise UserError(
            f"{shown(text)}: Hydra itself has no settings here. Run folders lie in paths.runs; -m trains one run after the other, and "
            "`python -m slurm` on a cluster."
        )
    try:
        override = OverridesParser.create().parse_override(text)
        # For glob(*), whose values are the choices of a group.
        override.config_loader = loader()
        if not override.key_or_group:
            raise ValueError("no key")
        return override
    except (HydraException, RecursionError, ValueError, OverflowError) as error:
        raise UserError(
            f"{shown(text)}: {_slip(text)}. Write KEY=VALUE, such as optim.epochs=5; what holds blanks, commas, brackets or quotes stands "
            f"in quotes: 'KEY=\"VALUE\"'."
        ) from error


def _slip(text: str) -> str:
    """Say what is wrong with a text that Hydra's grammar does not understand; its own messages are in terms of that grammar."""
    if "=" not in text:
        return "there is no = and no value"
    for opening, closing in ("[]", "{}", "()"):
        if text.count(opening) != text.count(closing):
            more, less = (opening, closing) if text.count(opening) > text.count(closing) else (closing, opening)
            return f"a {more} is there without its {less}"
    for quote in ("'", '"'):
        if text.count(quote) % 2:
            return f"a quote {quote} is not closed"
    return "not understood"


def each_run(texts: Sequence[str]) -> list[list[str]]:
    """Return the settings of each run of ``-m``: every combination of the values that are given for a key, the last key fastest.

    Raises:
        UserError: as :func:`read`; a list of values is empty, or without end.
    """
    axes = [_values(text) for text in texts]
    runs = list(itertools.islice(itertools.product(*axes), MOST_RUNS + 1))
    if len(runs) > MOST_RUNS:
        raise UserError(f"-m {shown(' '.join(texts))}: more than {MOST_RUNS} runs. Give fewer values.")
    return [list(run) for run in runs]


def _values(text: str) -> list[str]:
    override = _parse(text)
    if not override.is_sweep_override():
        return [text]
    if not override.is_discrete_sweep():
        raise UserError(f"{shown(text)}: an interval has no end of values. List them: {override.key_or_group}=A,B,C.")
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MOST_RUNS + 1))
    except (HydraException, ValueError, ArithmeticError, TypeError) as error:
        raise UserError(f"{shown(text)}: no list of values ({shown(str(error))}). List them: {override.key_or_group}=A,B,C.") from error
    if not values:
        raise UserError(f"{shown(text)}: no value matches. List them: {override.key_or_group}=A,B,C.")
    return [f"{override.get_key_element()}={value}" for value in values]


@cache
def loader() -> ConfigLoaderImpl:
    """Return what finds the files under ``repro/conf`` and the registered choices for Hydra."""
    Plugins.instance()
    return ConfigLoaderImpl(create_config_search_path("pkg://repro.conf"))
