"""``python -m repro KEY=VALUE ...``, or ``soft-labels KEY=VALUE ...``: train one run; several with ``-m seed=0,1,2``."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import hydra
from hydra._internal.utils import get_args_parser  # the only list of Hydra's own options
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from repro.command import exit_code_of
from repro.config.compose import mistakes_explained, nearest_setting, register_with_hydra, to_config
from repro.errors import UserError

#: What ``--help`` shows the settings of, unless the command line says otherwise: there is no default choice.
EXAMPLE = ("method=instance_labels", "dataset=digits", "seed=0")

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> None:
    """Let Hydra do what the command line says, and exit as :func:`repro.command.exit_code_of` has it."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"--help", "-h"} & set(words):
        given = {word.partition("=")[0] for word in words}
        words += [example for example in EXAMPLE if example.partition("=")[0] not in given]
    sys.argv[1:] = words
    # Hydra then raises mistakes, for which exit_code_of has one way, instead of printing them in ways of its own.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.exit(exit_code_of(_command))


def _command() -> None:
    register_with_hydra()
    for word in get_args_parser().parse_known_args()[1]:
        near = nearest_setting(word.strip("-").partition("=")[0]) if word.startswith("-") else ""
        raise UserError(
            f"{word}: not understood here. Settings are written KEY=VALUE and stand together, before or after all options.{near}"
        )
    with mistakes_explained():
        train()


@hydra.main(config_path="pkg://repro.conf", config_name="train", version_base="1.3")
def train(composed: DictConfig) -> None:
    """Train one run and print its folder, or try out its first batches (``exec=debug``)."""
    try:
        config = to_config(composed)
        if config.exec.debug:
            from repro.training.debug import debug

            debug(config)
        else:
            from repro.training.run import execute

            print(execute(config))
    except Exception as error:
        if HydraConfig.get().mode is RunMode.MULTIRUN:
            # Hydra continues with the next run, and at the end raises the first error alone.
            logger.error("error: %s", error)
        raise


if __name__ == "__main__":
    main()
