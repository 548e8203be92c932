"""Run folders that hold what other code has made: a start refuses, sets them aside, or takes them as equal."""

import logging
import socket
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from real_runs import stopped, tiny
from repro.runs.recorded import ASIDE, FILE

from repro.errors import UserError
from repro.files import read_json, write_json
from repro.runs import checkpoint, provenance
from repro.runs.provenance import attempts, decisive, facts
from repro.training.run import execute

STEP = "repro/engine/step.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    return execute(tiny(tmp_path_factory.mktemp("made")))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    target = tmp_path / made.name
    target.mkdir()
    for path in made.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def pretend_other_code(folder: Path, *names: str, digest: str = "0" * 64) -> dict[str, Any]:
    """Let ``code.json`` say that some files were other ones."""
    document = read_json(folder / FILE)
    document["files"] |= dict.fromkeys(names, digest)
    document["sha256"] = digest
    write_json(folder / FILE, document)
    return dict(document)


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_run_says_which_code_made_it(made: Path) -> None:
    document = read_json(made / FILE)
    assert {"repro/methods/fixed/one_hot.py", STEP, "repro/models/digits_cnn.py"} <= document["files"].keys()
    assert "repro/methods/fixed/focal.py" not in document["files"]
    assert read_json(made / "provenance.json")["code"] == document["sha256"]


def test_with_other_code_it_is_refused_and_both_ways_are_named(folder: Path) -> None:
    pretend_other_code(folder, STEP, "repro/gone.py")
    before = all_bytes(folder)
    with pytest.raises(UserError) as caught:
        execute(tiny(folder.parent))
    message = str(caught.value)
    assert f"these differ: {STEP}, repro/gone.py (no longer used)." in message
    assert "exec.on_changed_code=again" in message
    assert "exec.on_changed_code=equal" in message
    assert all_bytes(folder) == before


def test_again_trains_anew_and_keeps_the_old_folder(folder: Path) -> None:
    for number in (1, 2):
        pretend_other_code(folder, STEP)
        before = all_bytes(folder)
        assert execute(tiny(folder.parent, "exec.on_changed_code=again")) == folder
        assert all_bytes(folder.parent / ASIDE / f"{folder.name}.{number}") == before
        assert read_json(folder / FILE)["files"][STEP] != "0" * 64
        assert (folder / "final.json").read_bytes() == before["final.json"]
    # Now the code is the same, so there is nothing to do again.
    execute(tiny(folder.parent, "exec.on_changed_code=again"))
    assert len(list((folder.parent / ASIDE).iterdir())) == 2


def test_equal_notes_both_hashes_and_is_asked_once(folder: Path, made: Path) -> None:
    other = pretend_other_code(folder, STEP)
    before = all_bytes(folder)
    execute(tiny(folder.parent, "exec.on_changed_code=equal"))
    document = read_json(folder / FILE)
    assert (document["sha256"], document["files"]) == (other["sha256"], other["files"])
    assert [item["sha256"] for item in document["equal_to"]] == [read_json(made / FILE)["sha256"]]
    assert document["equal_to"][0]["noted"]
    assert {name: content for name, content in all_bytes(folder).items() if name != FILE} == {
        name: content for name, content in before.items() if name != FILE
    }
    execute(tiny(folder.parent))


def test_a_folder_that_does_not_say_is_taken_as_it_is(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / FILE).unlink()
    with caplog.at_level(logging.INFO):
        execute(tiny(folder.parent))
    assert "does not say which code made what it holds" in caplog.text
    assert not (folder / FILE).exists()


def test_a_record_that_cannot_be_read_counts_as_other_code(folder: Path) -> None:
    (folder / FILE).write_text("{")
    with pytest.raises(UserError, match=r"these differ: code.json cannot be read"):
        execute(tiny(folder.parent))
    with pytest.raises(UserError, match=r"code.json cannot be read .* Train the run again"):
        execute(tiny(folder.parent, "exec.on_changed_code=equal"))
    execute(tiny(folder.parent, "exec.on_changed_code=again"))


@pytest.mark.parametrize("remedy", ["again", "equal"])
def test_a_run_that_another_process_trains_is_left_alone(folder: Path, remedy: str) -> None:
    pretend_other_code(folder, STEP)
    with filelock.FileLock(folder / ".lock"), pytest.raises(UserError, match="another process is training this run"):
        execute(tiny(folder.parent, f"exec.on_changed_code={remedy}"))


def unfinished(runs: Path) -> Path:
    """A run that was stopped after its first epoch, with a checkpoint."""
    folder = stopped(tiny(runs, "optim.epochs=2"), epoch=1)
    assert (folder / checkpoint.NAMES[0]).exists()
    return folder


@pytest.mark.parametrize("remedy", ["equal", "again"])
def test_an_unfinished_run_goes_on_with_the_same_code_only(tmp_path: Path, remedy: str, caplog: pytest.LogCaptureFixture) -> None:
    folder = unfinished(tmp_path)
    pretend_other_code(folder, STEP)
    with pytest.raises(UserError, match=STEP):
        execute(tiny(tmp_path, "optim.epochs=2"))
    with caplog.at_level(logging.INFO):
        execute(tiny(tmp_path, "optim.epochs=2", f"exec.on_changed_code={remedy}"))
    assert ("resumes after 1 of 2 epochs" in caplog.text) == (remedy == "equal")
    document = read_json(folder / FILE)
    assert (document["sha256"] == "0" * 64) == (remedy == "equal")
    assert len(document.get("equal_to", [])) == (remedy == "equal")
    assert (tmp_path / ASIDE / f"{folder.name}.1" / checkpoint.NAMES[0]).exists() == (remedy == "again")


def test_a_run_that_went_on_from_unknown_code_says_so(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    (folder / FILE).unlink()
    execute(tiny(tmp_path, "optim.epochs=2"))
    assert read_json(folder / FILE)["began_with_unknown_code"] is True


def test_a_run_without_a_state_to_go_on_from_has_nothing_of_other_code(tmp_path: Path) -> None:
    folder = unfinished(tmp_path)
    pretend_other_code(folder, STEP)
    checkpoint.remove(folder)
    execute(tiny(tmp_path, "optim.epochs=2"))
    assert read_json(folder / FILE)["sha256"] != "0" * 64


def test_inputs_of_other_code_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    teacher = execute(tiny(tmp_path))
    reader = tiny(tmp_path, "method=distillation", f"inputs.teacher={teacher.name}")
    folder = execute(reader)
    assert read_json(folder / FILE)["inputs"] == {teacher.name: read_json(teacher / FILE)["sha256"]}
    pretend_other_code(teacher, STEP)
    with pytest.raises(UserError, match=rf"these differ: input {teacher.name}\."):
        execute(reader)
    # A reader that is trained now is told, too.
    with caplog.at_level(logging.WARNING):
        execute(tiny(tmp_path, "method=distillation", f"inputs.teacher={teacher.name}", "seed=1"))
    assert f"input {teacher.name} was made by other code than the present one; these differ: {STEP}." in caplog.text


def test_an_attempt_notes_what_decides_the_last_bits(made: Path) -> None:
    (attempt,) = read_json(made / "provenance.json")["attempts"]
    assert attempt["count"] == 1
    facts = attempt["facts"]
    assert (facts["device"], facts["threads"], facts["cpu_capability"]) == ("cpu", 1, torch.backends.cpu.get_cpu_capability())
    assert {"torch", "interop_threads", "processor", "precision"} <= facts.keys()


def test_a_run_that_goes_on_elsewhere_has_both_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = unfinished(tmp_path)
    provenance = read_json(folder / "provenance.json")
    provenance["attempts"][0]["facts"]["cpu_capability"] = "ABACUS"
    write_json(folder / "provenance.json", provenance)
    with caplog.at_level(logging.WARNING):
        execute(tiny(tmp_path, "optim.epochs=2"))
    assert "so its last digits may differ from an uninterrupted run: cpu_capability was ABACUS, is " in caplog.text
    noted = read_json(folder / "provenance.json")["attempts"]
    assert [item["facts"]["cpu_capability"] for item in noted] == ["ABACUS", torch.backends.cpu.get_cpu_capability()]


def test_every_attempt_notes_where_it_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    folder = unfinished(tmp_path)
    # Whether or not it left anything to go on from.
    for name in ("checkpoint.pt", "checkpoint.previous.pt"):
        (folder / name).unlink(missing_ok=True)
    monkeypatch.delenv("SLURM_JOB_ID")
    execute(tiny(tmp_path, "optim.epochs=2"))
    first, second = read_json(folder / "provenance.json")["hosts"]
    assert (first["attempt"], first["host"], first["slurm_job"]) == (1, socket.gethostname(), "12")
    assert (second["attempt"], second["host"], second.get("slurm_job")) == (2, socket.gethostname(), None)
    assert first["device"] == second["device"] == read_json(folder / "provenance.json")["device"]


def test_attempts_alike_are_counted_and_a_start_has_none_before(caplog: pytest.LogCaptureFixture) -> None:
    facts = {"device": "cpu", "threads": 1}
    once = attempts({}, facts, "run")
    assert attempts({"attempts": once}, facts, "run") == [{"count": 2, "facts": facts}]
    assert caplog.text == ""
    assert len(attempts({"attempts": once}, {**facts, "threads": 2}, "run")) == 2
    assert "threads was 1, is 2" in caplog.text


def test_on_a_gpu_the_processor_decides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    facts = {"device": "cuda", "gpu": "Abacus", "processor": "A", "threads": 1}
    assert decisive(facts) == {"device": "cuda", "gpu": "Abacus"}
    assert len(attempts({"attempts": attempts({}, facts, "run")}, {**facts, "processor": "B"}, "run")) == 2
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("kernel", "smi", "driver"),
    [
        ("580.65\n", "echo 1.1", "580.65"),
        (None, "echo 570.9; echo 570.9", "570.9"),
        (None, "echo no driver; exit 9", None),
        (None, None, None),
    ],
)
def test_an_attempt_on_a_gpu_names_its_libraries(
    tmp_path: Path, kernel: str | None, smi: str | None, driver: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container may hide the kernel's modules."""
    if kernel is not None:
        (tmp_path / "version").write_text(kernel)
    if smi is not None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{smi}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "_DRIVER", tmp_path / "version")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Abacus")
    monkeypatch.setattr(provenance, "_driver", provenance._driver.__wrapped__)
    found = facts(torch.device("cuda"), {"compile": True})
    assert (found["gpu"], found["driver"], found["cudnn"]) == ("Abacus", driver, torch.backends.cudnn.version())
    assert {"cuda", "triton"} <= decisive(found).keys()
    assert "triton" not in facts(torch.device("cuda"), {"compile": False})


def test_a_run_says_when_its_files_were_edited_since(made: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("repro.runs.code._edited", lambda path, content: path.name == "step.py")
    execute(tiny(made.parent))
    assert f"edited since this process began, and used as it was then: {STEP}." in caplog.text
