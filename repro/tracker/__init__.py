"""The Weights & Biases mirror of a run. ``metrics.jsonl`` is the truth; what W&B has can always be rebuilt from it.

One W&B run per run_id, whatever the number of attempts, with ``step = epoch`` and no epoch twice: an attempt asks what the earlier
ones have logged, fills in what is missing, and goes on. Everything W&B writes stays inside the run folder. A failure of W&B is
counted and warned about once, and never stops training.

======================  ==============================================================================================
``session``             the mirror of a run while it trains: :func:`track`
``environment``         which server and key there are, and where the client may write; needs no ``wandb``
``client``              the W&B client: one run opened, its rows logged, closed
``contents``            what W&B gets of a run folder; ``pictures`` draws what is not a number
``fragments``           W&B's offline files: their order, their rows, torn ends
``server``              what a W&B server has of a run
``sync``, ``verify``,   the verbs of ``python -m repro.tracker``
``replay``, ``pull``,
``view``, ``workspace``
======================  ==============================================================================================
"""

from __future__ import annotations

from repro.tracker.session import NoTracker, Tracker, track

__all__ = ["NoTracker", "Tracker", "track"]
