"""Tab completion of ``python -m repro`` as a script for the shell, which holds all words, so that no key press waits for Python."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Iterator
from typing import Any

from repro.config import registry
from repro.config.assemble import PRESETS, REGISTERED
from repro.config.schema import Config

SHELLS = ("bash", "zsh")

#: zsh reads bash's completions through a module of its own.
_FIRST = {"bash": "", "zsh": "autoload -Uz compinit bashcompinit && compinit && bashcompinit\n"}

#: A word is completed up to its ``=``, then its value. bash takes ``key`` and ``value`` for two words where ``=`` is among its breaks.
_SCRIPT = r"""_repro_words='WORDS'
_repro_complete() {
    local line word candidate last head
    COMPREPLY=()
    line="${COMP_LINE:0:$COMP_POINT}"
    case "$line" in
        *" -m repro "*) ;;
        *) return 0 ;;
    esac
    word="${line##* }"
    last="" head=""
    case "$word" in
        *=*) head="${word%%=*}=" ;;
    esac
    while IFS= read -r candidate; do
        case "$candidate" in
            "$word"*) ;;
            *) continue ;;
        esac
        if [ -z "$head" ]; then
            case "$candidate" in
                *=*) candidate="${candidate%%=*}=" ;;
            esac
        fi
        if [ "$candidate" != "$last" ] && [ "$candidate" != "$head" ]; then
            last="$candidate"
            if [ -n "$BASH_VERSION" ] && [ -n "$head" ] && [ "$COMP_WORDBREAKS" != "${COMP_WORDBREAKS#*=}" ]; then
                candidate="${candidate#"$head"}"
            fi
            COMPREPLY+=("$candidate")
        fi
    done <<< "$_repro_words"
}
complete -o default -o nospace -F _repro_complete python python3
"""


def script(shell: str, options: Iterable[str]) -> str:
    """Return what ``shell`` has to read so that it completes settings and ``options`` behind ``python -m repro``."""
    return _FIRST[shell] + _SCRIPT.replace("WORDS", "\n".join(sorted({*options, *_words()})))


def _words() -> Iterator[str]:
    """Yield ``KEY=`` of every setting, and ``KEY=VALUE`` where the values are few."""
    for group in (*PRESETS, *REGISTERED):
        yield from (f"{group}={name}" for name in registry.options(group))
    hints = typing.get_type_hints(Config)
    for section, kind in hints.items():
        if section in REGISTERED:
            for choice in registry.choices(section).values():
                yield from _fields(f"{section}.", choice.config)
        elif dataclasses.is_dataclass(kind):
            yield from _fields(f"{section}.", kind)
        else:
            yield f"{section}="


def _fields(prefix: str, kind: Any) -> Iterator[str]:
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        # The name follows the choice of the group.
        if field.name != "name":
            values = ("true", "false") if hints[field.name] is bool else field.metadata.get("choices", ())
            yield from (f"{prefix}{field.name}={value}" for value in values or ("",))
