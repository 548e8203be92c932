"""The look-ahead, the training step and the optimiser: one step of a run."""
