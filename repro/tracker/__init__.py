"""The Weights & Biases mirror of a run. ``metrics.jsonl`` is the truth; what W&B has can always be made again from it.

One W&B run for each run folder, whatever the number of attempts, with ``step = epoch`` and no epoch twice: an online attempt, like
``sync``, asks the server for its last epoch and logs the rows after it. Everything W&B writes stays inside the run folder. A failure of
W&B is counted and warned about once, and never stops training.
"""

from __future__ import annotations

from repro.tracker.mirror import Tracker, track

__all__ = ["Tracker", "track"]
