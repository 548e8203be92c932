"""Spec files of tests, and how a mistake in one is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from sweeps.spec.data import SpecError

#: A text of a file and what takes its place; the line of the mistake; words of the message.
Mistake = tuple[tuple[str, str], int, list[str]]


def write(folder: Path, text: str, name: str = "tried.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def check_refused(read: Callable[[], object], words: Iterable[str], place: str = "tried.yaml:") -> None:
    """Check that ``read`` ends in an error with all of ``words`` about ``place``, a file and line."""
    with pytest.raises(SpecError) as raised:
        read()
    for word in (place, *words):
        assert word in str(raised.value)


def check_mistake(read: Callable[[str], object], folder: Path, text: str, mistake: Mistake, name: str = "tried.yaml") -> None:
    """Check that ``read`` refuses the file ``name`` in ``folder`` when ``text`` has the mistake."""
    (old, new), line, words = mistake
    assert old in text
    check_refused(lambda: read(write(folder, text.replace(old, new, 1), name)), words, f"{name}:{line}: ")
