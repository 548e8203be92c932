"""Which code made what a run folder holds, and what to do where the present code is another one.

``code.json`` holds the files that the run's numbers come from, with a hash of each (:mod:`repro.runs.code`), and for each input what its
own says. Results of other code are never taken as the run's in silence: they are refused, set aside, or taken as equal, which is noted.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro.config import registry
from repro.errors import UserError, first_of
from repro.files import peek, read_json, write_json
from repro.runs import checkpoint
from repro.runs.code import Code, code_of
from repro.runs.inputs import InputRun
from repro.runs.lock import HeldError, hold
from repro.runs.state import TrainedElsewhereError, now, read_state

logger = logging.getLogger(__name__)

FILE = "code.json"

#: Beside the run folders: where results of other code are kept. Nothing reads what lies there.
ASIDE = "aside"


def run_code(fields: Mapping[str, Any], runs: Path, *, inputs: Iterable[str], load: bool = False) -> Code:
    """Return the present code of the run with the identity ``fields``, whose ``inputs`` lie in ``runs``; raises what ``code_of`` raises."""
    code = code_of({group: fields[f"{group}.name"] for group in registry.GROUPS}, load=load)
    return replace(code, inputs={name: peek(runs / name / FILE, "sha256") for name in inputs})


def has_results(folder: Path) -> bool:
    """Say whether the next start would use what a folder holds: results, or a state to go on from."""
    return any((folder / name).exists() for name in checkpoint.NAMES) or read_state(folder) in ("done", "damaged")


def differences(folder: Path, present: Code) -> tuple[str, ...] | None:
    """Return the files and inputs in which the code of what ``folder`` holds differs from the present one; ``None`` where it is unknown.

    Code that was taken as equal counts like that which made the results.
    """
    try:
        document = read_json(folder / FILE)
        states = [document, *document.get("equal_to", [])]
        if any(state["files"] == present.files and state.get("inputs", {}) == present.inputs for state in states):
            return ()
        return tuple(_named(states[-1], present))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return (f"{FILE} cannot be read ({error})",)


def settle(folder: Path, present: Code, remedy: str) -> None:
    """Do what ``remedy`` says, where ``folder`` holds something that other code than the present one has made.

    Raises:
        UserError: ``remedy`` is ``refuse``; another process is training the run; the folder cannot be written.
    """
    if not has_results(folder):
        return
    changed = differences(folder, present)
    if changed is None:
        logger.info("%s does not say which code made what it holds; it is taken as it is.", folder.name)
    elif changed and remedy == "refuse":
        raise UserError(
            f"{folder} holds what other code has made; these differ: {first_of(changed)}. Nothing was changed. "
            f"exec.on_changed_code=again trains it anew and keeps the old folder in {folder.parent / ASIDE}; "
            f"exec.on_changed_code=equal takes it as equal, which {FILE} then says."
        )
    elif changed and remedy == "again":
        logger.info("%s was made by other code (%s); it is kept as %s.", folder.name, first_of(changed), set_aside(folder))
    elif changed:
        logger.info("%s was made by other code (%s); it is taken as equal.", folder.name, first_of(changed))
        take_as_equal(folder, present)


def set_aside(folder: Path) -> Path:
    """Move a run folder to ``aside/RUN_ID.N`` beside it, and return where it is now.

    Raises:
        UserError: another process is training the run; the folder cannot be moved.
    """
    with _locked(folder):
        number = 1
        while (target := folder.parent / ASIDE / f"{folder.name}.{number}").exists():
            number += 1
        target.parent.mkdir(exist_ok=True)
        os.rename(folder, target)
    return target


def take_as_equal(folder: Path, present: Code) -> None:
    """Note in ``code.json`` that what ``folder`` holds is taken for what the present code would make.

    Raises:
        UserError: another process is training the run; the folder cannot be written, or its code.json not be read.
    """
    with _locked(folder):
        try:
            document = read_json(folder / FILE)
            equal = [*document.get("equal_to", []), present.document() | {"noted": now()}]
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{folder / FILE} cannot be read ({error}), so nothing can be equal to it. Train the run again.") from error
        write_json(folder / FILE, document | {"equal_to": equal})


def record(folder: Path, present: Code) -> None:
    """Write ``code.json`` as a run begins. One that goes on keeps what it began with, or says that this is not known."""
    goes_on = has_results(folder)
    if not goes_on or not (folder / FILE).exists():
        write_json(folder / FILE, present.document() | ({"began_with_unknown_code": True} if goes_on else {}))


def warn_of_inputs(inputs: Iterable[InputRun]) -> None:
    """Say which inputs were made by other code than the present one."""
    for run in inputs:
        reads = [*run.fields.get("inputs.labels", ()), *filter(None, [run.fields.get("inputs.teacher")])]
        try:
            changed = differences(run.folder, run_code(run.fields, run.folder.parent, inputs=reads))
        except UserError as error:
            changed = (str(error),)
        if changed:
            logger.warning("input %s was made by other code than the present one; these differ: %s.", run.run_id, first_of(changed))


def _named(state: Mapping[str, Any], present: Code) -> Iterator[str]:
    before, after = state["files"], present.files
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            yield f"{name} (new)"
        elif name not in after:
            yield f"{name} (no longer used)"
        elif before[name] != after[name]:
            yield name
    read = state.get("inputs", {})
    yield from (f"input {name}" for name in present.inputs if read.get(name) != present.inputs[name])


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        with hold(folder / ".lock"):
            # Where a lock does not reach from machine to machine, the heartbeat does.
            if read_state(folder) == "running":
                raise TrainedElsewhereError(folder)
            yield
    except HeldError as error:
        raise TrainedElsewhereError(folder) from error
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror or error}. Make it writable.") from error
