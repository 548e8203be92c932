"""``python -m repro.data download NAME [--folder FOLDER]``: the only command that uses the network."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from repro.data.published_files import download
from repro.errors import EXIT_USER_ERROR, UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m repro.data", description="Gets the published files of a dataset.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    get = commands.add_parser("download", help="download what is missing or damaged, and check it")
    get.add_argument("dataset", metavar="NAME", help="such as cifar10 or cifar100")
    get.add_argument(
        "--folder",
        metavar="FOLDER",
        # As paths.data of a run has it.
        default=os.environ.get("REPRO_DATA", "data"),
        help="where datasets lie (default: $REPRO_DATA, or data): now %(default)s",
    )
    chosen = parser.parse_args(arguments)
    try:
        download(chosen.dataset, chosen.folder)
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
