"""Measurements of the training step, the data path and the throughput; each file is a command: ``python benchmarks/step.py --help``."""
