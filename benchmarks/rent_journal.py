"""What a call on a rented machine writes as it goes, so that a machine that is taken away has left it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from repro.files import write_json


class Journal:
    """A log and a summary in the folder ``out``; ``began`` is the call's start on the clock of :func:`time.monotonic`."""

    def __init__(self, out: Path, began: float, summary: dict[str, Any]) -> None:
        self.out = out
        self.summary = summary
        self._began = began

    def say(self, text: str) -> None:
        """Print a line with the seconds since the start, and add it to the log."""
        line = f"[{self.now():7.1f} s] {text}"
        print(line, flush=True)
        with (self.out / "rent.log").open("a") as log:
            log.write(line + "\n")

    def note(self, **values: Any) -> None:
        """Put ``values`` into summary.json; what it held before is there until it is replaced as a whole."""
        self.summary |= values | {"seconds": round(self.now(), 1)}
        write_json(self.out / "summary.json", self.summary)

    def now(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self._began
