"""Every method has its page in docs/methods, which names its settings, and every page its method."""

import dataclasses

import pytest
from markdown_blocks import ROOT

from repro.config import registry

FOLDER = ROOT / "docs" / "methods"


@pytest.mark.parametrize("name", registry.choices("method"))
def test_a_method_has_a_page_that_names_its_settings_and_its_tests(name: str) -> None:
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name}\n")
    fields = [field.name for field in dataclasses.fields(registry.get("method", name).config) if field.name != "name"]
    assert [field for field in fields if field not in text] == []
    assert "Tests: " in text
    named = [part.split("`")[0] for part in text.split("`tests/")[1:]]
    assert named
    for part in named:
        assert (ROOT / "tests" / part).exists(), part


def test_no_page_is_left_of_a_method_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} == set(registry.choices("method"))
