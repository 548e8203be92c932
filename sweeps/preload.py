"""Imported by the server that runs are forked from: what every run would import and find out for itself, done once."""

from __future__ import annotations

import contextlib

from repro.config.compose import compose
from repro.errors import UserError
from repro.runs.code import code_hash
from repro.runs.provenance import git_state, versions

# It imports every method, dataset and model. If this fails, each run will say why.
with contextlib.suppress(UserError):
    compose(["method=one_hot", "dataset=digits", "seed=0"])
    # Now, so that code that is edited later is not taken for what was imported.
    code_hash()
git_state()
versions()
