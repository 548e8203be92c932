"""The Weights & Biases mirror of a run. ``metrics.jsonl`` is the truth; what W&B has can always be made again from it.

One W&B run for each run folder, whatever the number of attempts, with ``step = epoch`` and no epoch twice: an online attempt, like
``sync``, asks the server for its last epoch and logs the rows after it. Everything W&B writes stays inside the run folder. A failure of
W&B is counted and warned about once, and never stops training.

================  ====================================================================================================
``session``       the mirror of a run while it trains: :func:`track`
``environment``   where the client may write, and who may upload a run
``client``        the W&B client: one run opened, its rows logged, closed
``contents``      what W&B gets of a run folder; ``pictures`` draws what is not a number
``server``        what a W&B server has of a run
``sync``          uploads the rows that are missing on the server, and compares them
``view``          charts in the terminal
``dashboards``    the saved view of a project
================  ====================================================================================================
"""

from __future__ import annotations

from repro.tracker.session import Tracker, track

__all__ = ["Tracker", "track"]
