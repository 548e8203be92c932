"""Presets for Hydra: one folder a group. The fields themselves are declared in repro/config/schema.py."""
