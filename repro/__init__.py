"""Training core of soft-labels-repro: one run of one method, from a configuration to a run folder."""

from repro.imported import watch as _watch

__version__ = "0.1.0"

_watch()
