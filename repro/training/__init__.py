"""One run from its settings to its results: the loop, evaluation and metrics."""
