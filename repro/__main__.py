"""``python -m repro KEY=VALUE ...``: train one run. Hydra's full command line: ``--help``, ``--cfg job``, ``-m seed=0,1,2``."""

from __future__ import annotations

import logging
import sys

import hydra
from omegaconf import DictConfig

from repro.compose import compose, register_with_hydra, to_config
from repro.errors import EXIT_USER_ERROR, Interrupted, UserError

#: What the help page shows the settings of, unless the command line says otherwise.
HELP_EXAMPLE = ("method=instance_labels", "dataset=digits", "seed=0")


def run_one(composed: DictConfig) -> None:
    """Train the run of a composed configuration and print its folder; end the process as the shell expects."""
    # Hydra passes exceptions on with a traceback of its own making; a user's mistake needs none.
    try:
        from repro.run import execute

        print(execute(to_config(composed)))
    except UserError as error:
        fail(error)
    except Interrupted as stop:
        print("stopped; the same command goes on.", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def fail(error: UserError) -> None:
    """Print a user's mistake and end the process."""
    print(f"error: {error}", file=sys.stderr)
    sys.exit(EXIT_USER_ERROR)


def main() -> None:
    """Check the overrides with our own messages, then hand over to Hydra."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    register_with_hydra()
    arguments = sys.argv[1:]
    try:
        # Hydra names a wrong key; compose() also names the nearest right one. Flags and sweeps are left to Hydra.
        if not any(argument.startswith("-") for argument in arguments):
            compose(arguments)
    except UserError as error:
        fail(error)
    if any(argument in ("-h", "--help") for argument in arguments):
        # Hydra's help needs a choice for every group; ours have no default on purpose.
        given = {argument.partition("=")[0] for argument in arguments}
        sys.argv += [example for example in HELP_EXAMPLE if example.partition("=")[0] not in given]
    hydra.main(config_path="pkg://repro.conf", config_name="train", version_base="1.3")(run_one)()


if __name__ == "__main__":
    main()
