"""``python -m repro.data download NAME... [--folder FOLDER]``: the only command that uses the network."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from repro.command import exit_code_of
from repro.data.noises import human
from repro.data.published_files import files_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m repro.data", description="Gets the published files of a dataset.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    get = commands.add_parser("download", help="download what is missing or corrupted, and check it")
    get.add_argument("dataset", nargs="+", metavar="NAME", help="such as cifar10 or cifar100")
    text, data = "where datasets lie (default: $REPRO_DATA, or data): now %(default)s", os.environ.get("REPRO_DATA", "data")
    get.add_argument("--folder", "--to", metavar="FOLDER", default=data, help=text)
    chosen = parser.parse_args(arguments)

    def command() -> None:
        for name in chosen.dataset:
            files = files_of(name)
            if files is None:
                print(f"{name}: is part of an installed package; there is nothing to download.")
            else:
                files.download(Path(chosen.folder))
                print(f"{name}: complete and as published, below {chosen.folder}")
            if name in human.FILES:
                print(f"{name}: noise=human needs a file that is not downloaded. {human.FILES[name].get}")

    return exit_code_of(command)


if __name__ == "__main__":
    sys.exit(main())
