"""Which files a run's numbers come from, and what changes their hash."""

import ast
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro import imported
from repro.config import registry
from repro.errors import UserError
from repro.runs import code
from repro.runs.code import Code, code_of, digest_of

CHOICES = {"method": "one_hot", "dataset": "digits", "model": "digits_cnn", "noise": "none"}

PLAIN = 'RATE = 0.1\n\n\ndef step(x):\n    """Take a step."""\n    return x * RATE\n'


def digest(text: str) -> str:
    return digest_of(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "# A comment.\n" + PLAIN,
        PLAIN.replace('    """Take a step."""\n', ""),
        PLAIN.replace("Take a step.", "Take another step."),
        '"""A module."""\n' + PLAIN,
        PLAIN.replace("x * RATE", "(\n        x\n        * RATE  # scaled\n    )"),
        PLAIN.replace("0.1", "1e-1"),
    ],
)
def test_what_cannot_change_a_number_leaves_the_hash(text: str) -> None:
    assert digest(text) == digest(PLAIN)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.replace("0.1", "0.2"),
        PLAIN.replace("x * RATE", "x + RATE"),
        PLAIN.replace("RATE = 0.1", "RATE = True"),
        PLAIN + "step(1)\n",
        PLAIN.replace('    """Take a step."""\n', '    x = """Take a step."""\n'),
        PLAIN.replace("return x * RATE", "return None"),
        PLAIN.replace("def step(x)", "def step(x=1)"),
    ],
)
def test_what_can_change_a_number_changes_the_hash(text: str) -> None:
    assert digest(text) != digest(PLAIN)


def test_equal_constants_of_different_kinds_differ() -> None:
    assert len({digest(f"x = {value}") for value in ("1", "1.0", "True", "'1'", "b'1'", "None", "-1", "...")}) == 8


def test_a_run_depends_on_its_own_choices_and_on_what_computes() -> None:
    files = set(code_of(CHOICES).files)
    assert {name for name in files if name.startswith("repro/methods/")} == {"repro/methods/fixed/one_hot.py"}
    assert {name for name in files if name.startswith("repro/models/")} == {"repro/models/digits_cnn.py"}
    assert {name for name in files if name.startswith(("repro/data/sources/", "repro/data/noises/"))} == {
        "repro/data/sources/digits.py",
        "repro/data/noises/none.py",
    }
    assert files >= {
        *(f"repro/engine/{name}.py" for name in ("step", "lookahead", "optimizer", "schedule", "compiled", "method")),
        *(f"repro/training/{name}.py" for name in ("build", "loop", "evaluate", "metrics")),
        *("repro/randomness.py", "repro/data/prepare.py", "repro/labels/recorder.py"),
    }
    bookkeeping = ("training/run", "training/monitor", "runs/folder", "runs/checkpoint", "errors", "__main__")
    assert not files & {f"repro/{name}.py" for name in bookkeeping}
    assert not any(name.startswith("repro/config/") for name in files)
    assert not any(name.startswith("repro/tracker/") for name in files)


def test_another_choice_brings_its_own_files() -> None:
    replay = set(code_of({**CHOICES, "method": "replay", "noise": "patrini"}).files)
    plain = set(code_of(CHOICES).files)
    # With it comes what only it imports.
    assert replay - plain == {
        "repro/methods/fixed/replay.py",
        "repro/methods/shared/averaged_labels.py",
        "repro/data/noises/patrini.py",
    }
    assert code_of({**CHOICES, "method": "focal"}).sha256 != code_of(CHOICES).sha256


def test_each_method_depends_on_its_own_file_and_on_those_it_imports() -> None:
    for name in registry.choices("method"):
        files = code_of({**CHOICES, "method": name}).files
        methods = {file for file in files if file.startswith("repro/methods/") and not file.startswith("repro/methods/shared/")}
        own = registry.get("method", name).build.__module__.replace(".", "/") + ".py"
        assert methods == {own}, name


METHOD = """\
from repro.config import registry
from repro.methods.fixed.one_hot import OneHot, OneHotConfig
import my_helper

@registry.method("mine", config=OneHotConfig)
class Mine(OneHot):
    factor = my_helper.FACTOR
"""


class Mine:
    """A method of the user's, in a file of his own, with a helper beside it."""

    def __init__(self, folder: Path) -> None:
        self.method, self.helper = folder / "my_method.py", folder / "my_helper.py"
        self.method.write_text(METHOD)
        self.helper.write_text("FACTOR = 1.0\n")

    def forget(self) -> None:
        """Let the next call be that of a new process."""
        for name in ("my_method", "my_helper"):
            sys.modules.pop(name, None)
            imported.sources.pop(name, None)
        registry._choices["method"].pop("mine", None)
        importlib.invalidate_caches()

    def code(self) -> Code:
        if "my_method" not in sys.modules:
            importlib.import_module("my_method")
        return code_of({**CHOICES, "method": "mine"}, load=True)

    def edit(self, path: Path, text: str) -> None:
        path.write_text(text)
        # Python takes a compiled file for the present one by its time and size.
        os.utime(path, ns=(1, len(text)))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mine]:
    monkeypatch.syspath_prepend(str(tmp_path))
    code._parsed.cache_clear()
    registry.choices("method")
    made = Mine(tmp_path)
    yield made
    made.forget()


def test_files_of_the_user_count_with_what_they_import(mine: Mine) -> None:
    first = mine.code()
    assert {"my_method.py", "my_helper.py", "repro/methods/fixed/one_hot.py"} <= set(first.files)
    assert first.edited == ()
    mine.forget()
    mine.edit(mine.helper, "# as before\nFACTOR = 1.0\n")
    assert mine.code() == first
    mine.forget()
    mine.edit(mine.helper, "FACTOR = 2.0\n")
    second = mine.code()
    assert {name for name in first.files if first.files[name] != second.files[name]} == {"my_helper.py"}


def test_a_file_that_is_edited_later_is_recorded_as_it_was_imported(mine: Mine) -> None:
    """A server imports once, and forks for hours."""
    first = mine.code()
    mine.edit(mine.helper, "FACTOR = 2.0\n")
    assert mine.code() == Code(first.files, edited=("my_helper.py",))
    mine.edit(mine.helper, "FACTOR = 1.0\n")
    assert mine.code().edited == ()


def test_the_file_of_a_choice_counts_wherever_it_lies(mine: Mine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imported, "_FOREIGN", (*imported._FOREIGN, f"{mine.method.parent}/"))
    files = set(mine.code().files)
    assert "my_method.py" in files
    assert "my_helper.py" not in files


def test_a_file_that_is_no_python_is_named(mine: Mine) -> None:
    mine.edit(mine.helper, "FACTOR = \n")
    sys.modules["my_helper"] = type(sys)("my_helper")
    sys.modules["my_helper"].__file__ = str(mine.helper)
    sys.modules["my_helper"].FACTOR = 1.0
    with pytest.raises(UserError, match=r"my_helper.py:1: this is no Python"):
        mine.code()
