"""``python -m repro KEY=VALUE ...``: train one run; several with ``-m seed=0,1,2``. ``--help`` and ``--cfg job`` print the settings."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from repro.compose import compose, compose_tree, nearest_setting, register_with_hydra, to_config
from repro.config import Config
from repro.errors import EXIT_USER_ERROR, Interrupted, UserError, did_you_mean, shown
from repro.overrides import check_given_once, each_run

#: What ``--help`` and ``--info`` show the settings of, unless the command line says otherwise: there is no default choice.
EXAMPLE = ("method=instance_labels", "dataset=digits", "seed=0")

#: What ``--info`` can show of Hydra's work.
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
    """Answers a mistake as the rest of the command does."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{shown(message)}. `python -m repro --help` has the options and the settings.")


def _parser() -> _Parser:
    """Return what reads the options: those of Hydra's that have a meaning here."""
    parser = _Parser(prog="python -m repro", add_help=False, allow_abbrev=False)
    action = parser.add_mutually_exclusive_group()
    for names in (("--help", "-h"), ("--hydra-help",), ("--version",), ("--run", "-r"), ("--multirun", "-m")):
        action.add_argument(*names, action="store_true")
    action.add_argument("--cfg", "-c", choices=("job",))
    action.add_argument("--info", "-i", nargs="?", const="all", choices=INFO)
    parser.add_argument("--package", "-p")
    parser.add_argument("--resolve", action="store_true")
    return parser


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options and the settings of a command line.

    Hydra's other options (``--config-name``, ``--config-dir``, ``--experimental-rerun``, ...) put foreign settings in the place of this
    project's, and are unknown here.

    Raises:
        UserError: there is no such option, it does not go with the others, or a setting is given twice.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(list(arguments))
    settings = [text for text in rest if not text.startswith("-")]
    for text in rest:
        name = text.partition("=")[0]
        if text.startswith("-"):
            near = did_you_mean(name, parser._option_string_actions) or nearest_setting(name.strip("-"))
            raise UserError(f"there is no option {shown(name)}.{near} A setting is written KEY=VALUE without dashes, such as seed=0.")
    if options.hydra_help:
        raise UserError("--hydra-help: Hydra's own options and settings have no use here. `python -m repro --help` lists those that have.")
    if options.package is not None and options.cfg is None:
        raise UserError(f"--package {shown(options.package)}: only --cfg job prints a part of the settings.")
    if options.resolve and options.cfg is None:
        raise UserError("--resolve: only --cfg job prints settings with their references resolved.")
    if options.version and settings:
        raise UserError(f"--version goes with no setting, and here is {shown(settings[0])}.")
    check_given_once(settings)
    return options, settings


def main() -> None:
    """Do what the command line says; a user's mistake ends in one message and ``EXIT_USER_ERROR``."""
    try:
        options, settings = parse(sys.argv[1:])
        if options.version:
            print(f"soft-labels-repro {version('soft-labels-repro')}, Hydra {version('hydra-core')}")
        elif options.help or options.info:
            _ask_hydra("--help" if options.help else f"--info={options.info}", settings)
        elif options.cfg:
            _print_settings(settings, options.package, resolve=options.resolve)
        elif options.multirun:
            _train_each([compose(run) for run in each_run(settings)])
        else:
            _train(compose(settings))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except Interrupted as stop:
        print("stopped; the same command goes on.", file=sys.stderr)
        sys.exit(stop.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)


def _train(config: Config) -> None:
    """Train a run and print its folder."""
    from repro.run import execute

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    print(execute(config))


def _train_each(configs: Sequence[Config]) -> None:
    """Train one run after the other, all of them, also where one fails.

    Raises:
        UserError: some had a mistake of the user.
        Exception: the first failure of another kind.
    """
    failures: list[Exception] = []
    for config in configs:
        try:
            _train(config)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            failures.append(error)
        except Exception as error:
            logger.exception("A run failed; the next one begins.")
            failures.append(error)
    for failure in failures:
        if not isinstance(failure, UserError):
            raise failure
    if failures:
        raise UserError(f"{len(failures)} of {len(configs)} runs could not be trained; the messages above say why.")


def _print_settings(settings: Sequence[str], package: str | None, *, resolve: bool) -> None:
    """Print the settings of the run, or the section or setting called ``package``; they are checked as if it were trained."""
    tree = compose_tree(settings)
    if not OmegaConf.missing_keys(tree):
        to_config(tree)
    if resolve:
        OmegaConf.resolve(tree)
    if package is None:
        print(OmegaConf.to_yaml(tree), end="")
        return
    sections = [str(name) for name in tree]
    names = [*sections, *(f"{name}.{field}" for name in sections if isinstance(tree[name], DictConfig) for field in tree[name])]
    if package not in names:
        raise UserError(f"--package {shown(package)}: there is no such section or setting.{did_you_mean(package, names)}")
    part = OmegaConf.select(tree, package)
    print(OmegaConf.to_yaml(part) if OmegaConf.is_config(part) else part, end="" if OmegaConf.is_config(part) else "\n")


def _ask_hydra(option: str, settings: Sequence[str]) -> None:
    """Let Hydra print its page about the choices and settings."""
    given = {text.partition("=")[0] for text in settings}
    settings = [*settings, *(example for example in EXAMPLE if example.partition("=")[0] not in given)]
    compose_tree(settings)
    register_with_hydra()
    sys.argv[1:] = [option, *settings]
    hydra.main(config_path="pkg://repro.conf", config_name="train", version_base="1.3")(_nothing)()


def _nothing(composed: DictConfig) -> None:
    """Be what Hydra would run, which it is never asked to."""


if __name__ == "__main__":
    main()
