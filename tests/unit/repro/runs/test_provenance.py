"""What a run says of where it was computed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from repro.config.compose import compose
from repro.files import write_json
from repro.runs import provenance
from repro.runs.code import code_hash
from repro.runs.provenance import git_state

CPU = torch.device("cpu")


def test_attempts_under_other_conditions_are_listed_and_said(caplog: pytest.LogCaptureFixture) -> None:
    execution = compose(["method=one_hot", "dataset=digits", "seed=0", "exec=audit"]).exec
    first = provenance.provenance(CPU, execution, {})
    assert (first["code"], first["execution"]["precision"], len(first["attempts"])) == (code_hash(), "float32", 1)
    assert provenance.provenance(CPU, execution, first) == first
    assert caplog.text == ""
    earlier = {"git": {"sha": "0123"}, "attempts": [{"facts": first["attempts"][0]["facts"] | {"processor": "Abacus"}}]}
    resumed = provenance.provenance(CPU, execution, earlier)
    assert resumed["attempts"] == [*earlier["attempts"], *first["attempts"]]
    assert resumed["earlier_git"] == [{"sha": "0123"}]
    assert "its last digits may differ: processor was Abacus, is " in caplog.text


def test_facts_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Abacus 3")
    assert provenance.facts(torch.device("cuda"))["gpu"] == "Abacus 3"
    assert "processor" not in provenance.facts(torch.device("cuda"))


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the file that asks."""
    (tmp_path / "repro").mkdir()
    monkeypatch.setattr(provenance, "_ROOT", tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(shutil.copy(provenance.__file__, tmp_path / "repro" / "provenance.py")))
    return tmp_path


def test_the_commit_and_what_it_lacks(checkout: Path) -> None:
    def state() -> dict[str, str | None]:
        git_state.cache_clear()
        return git_state()

    try:
        assert state() == {"sha": None, "dirty_sha256": None}
        author = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        for command in (["init", "-q"], ["add", "repro"], ["commit", "-qm", "x"]):
            subprocess.run(["git", *author, *command], cwd=checkout, check=True)
        clean = state()
        assert len(clean["sha"]) == 40
        assert clean["dirty_sha256"] is None
        (checkout / "elsewhere.txt").touch()
        assert state() == clean
        with (checkout / "repro" / "provenance.py").open("a") as file:
            file.write("# edited\n")
        assert state()["dirty_sha256"] is not None
        write_json(checkout / "snapshot.json", {"git": clean, "sha256": "f00"})
        assert state() == {**clean, "snapshot": "f00"}
    finally:
        git_state.cache_clear()


def test_versions() -> None:
    assert provenance.versions()["python"] == ".".join(map(str, sys.version_info[:3]))
