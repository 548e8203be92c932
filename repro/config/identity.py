"""Who a run is: the canonical form of its scientific settings, and the id that follows from it.

Two runs with one id are the same experiment. The id covers *every* field outside ``exec``, ``tracker`` and ``paths``, defaults
included, and the hand-raised version of each choice; so a changed default gives another id and can never silently reuse an old
result. The folder stores the full list of fields, and reuse compares it.

A field that is added later declares ``neutral``, the value at which the code behaves as before the field existed; at that value
the field is left out, so that finished runs keep their ids.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from repro.config import registry
from repro.config.schema import NOT_SCIENTIFIC, Config
from repro.errors import UserError
from repro.files import read_json


def scientific_fields(config: Config) -> dict[str, Any]:
    """Return every field of the identity as a flat ``{"optim.epochs": 60, ...}``, sorted by name."""
    flat: dict[str, Any] = {"seed": config.seed}
    for section in dataclasses.fields(config):
        settings = getattr(config, section.name)
        if section.name == "seed" or section.name in NOT_SCIENTIFIC:
            continue
        for field in dataclasses.fields(settings):
            value = getattr(settings, field.name)
            if "neutral" not in field.metadata or value != field.metadata["neutral"]:
                flat[f"{section.name}.{field.name}"] = value
        if section.name in registry.GROUPS:
            flat[f"{section.name}.version"] = registry.get(section.name, settings.name).version
    return dict(sorted(flat.items()))


def identity_document(config: Config) -> dict[str, Any]:
    """Return what ``identity.json`` holds: the id, ``<method>-<dataset>-<12 hex>``, and the fields that it follows from."""
    fields = scientific_fields(config)
    digest = hashlib.sha256(json.dumps(fields, separators=(",", ":"), allow_nan=False).encode()).hexdigest()
    return {"schema": 1, "run_id": f"{config.method.name}-{config.dataset.name}-{digest[:12]}", "fields": fields}


def run_id(config: Config) -> str:
    """Return ``<method>-<dataset>-<12 hex>``."""
    return str(identity_document(config)["run_id"])


def check_same(folder: Path, config: Config) -> None:
    """Check that ``folder`` holds the run of ``config``.

    Raises:
        UserError: it holds another one; the message names each field that differs. Or what it holds cannot be read.
    """
    try:
        stored, wanted = read_json(folder / "identity.json"), identity_document(config)
    except ValueError as error:
        raise UserError(f"{folder / 'identity.json'} is corrupted ({error}). Put it back from a copy, or move the folder away.") from error
    if stored["run_id"] == wanted["run_id"]:
        return
    before, now = stored["fields"], wanted["fields"]
    differing = sorted(key for key in before.keys() | now.keys() if before.get(key, "absent") != now.get(key, "absent"))
    listed = "; ".join(f"{key} is {before.get(key, 'absent')}, not {now.get(key, 'absent')}" for key in differing)
    raise UserError(f"{folder} holds another run, {stored['run_id']}: {listed}. Move it away, or set paths.runs to another folder.")
