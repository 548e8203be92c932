"""Training core of soft-labels-repro: one run of one method, from a configuration to a run folder."""

__version__ = "0.1.0"
