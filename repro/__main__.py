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

from repro.command import exit_code_of
from repro.config import registry
from repro.config.assemble import PRESETS, REGISTERED
from repro.config.completion import SHELLS, script
from repro.config.compose import check_names, compose, compose_tree, nearest_setting, register_with_hydra, to_config
from repro.config.overrides import check_given_once, each_run
from repro.config.schema import Config
from repro.errors import UserError, did_you_mean, shown

#: What ``--help`` and ``--info`` show the settings of, unless the command line says otherwise: there is no default choice.
EXAMPLE = ("method=instance_labels", "dataset=digits", "seed=0")

#: What ``--help`` begins with: all that it says without PyTorch, which comes with the methods and takes seconds.
HEADER = """\
Trains one run: python -m repro method=... dataset=... seed=... [KEY=VALUE ...]
method, dataset and seed have no default. A dataset brings its usual model, and a model its recipe.
"""

#: What it ends with.
FOOTER = """
exec=debug       tries the first batch of two epochs and keeps no file
-m KEY=A,B,...   trains a run for each value, one after the other
--cfg job        prints the settings and trains nothing; -p SECTION a part of them, --resolve with references resolved
--shell-completion bash|zsh   prints what completes settings at a tab: eval "$(python -m repro --shell-completion bash)"
--info [WHAT]    shows how Hydra composes them: all, config, defaults, defaults-tree, plugins, searchpath
Put a text with blanks, commas or brackets, or one that looks like a number, in quotes: 'paths.runs="a, b"'.
Hydra's +KEY, ++KEY, ~KEY, GROUP@PACKAGE and hydra.KEY are refused: there is nothing to add, to take away or to move."""

#: What ``--info`` can show of Hydra's work.
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

logger = logging.getLogger(__name__)


class _Parser(argparse.ArgumentParser):
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
    action.add_argument("--shell-completion", "-sc", choices=SHELLS)
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
            near = did_you_mean(name, parser._option_string_actions, cutoff=0.75) or nearest_setting(name.strip("-"))
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
    """Do what the command line says, and exit as :func:`repro.command.exit_code_of` has it."""
    sys.exit(exit_code_of(_command))


def _command() -> None:
    options, settings = parse(sys.argv[1:])
    if options.version:
        print(f"soft-labels-repro {version('soft-labels-repro')}, Hydra {version('hydra-core')}")
    elif options.help:
        _print_help(settings)
    elif options.shell_completion:
        print(script(options.shell_completion, (name for name in _parser()._option_string_actions if name.startswith("--"))))
    elif options.info:
        _ask_hydra(options.info, settings)
    elif options.cfg:
        _print_settings(settings, options.package, resolve=options.resolve)
    elif options.multirun:
        _train_each([compose(run) for run in each_run(settings)])
    else:
        _train(compose(settings))


def _train(config: Config) -> None:
    """Train a run and print its folder, or try out its first batches."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr)
    if config.exec.debug:
        from repro.training.debug import debug

        debug(config)
    else:
        from repro.training.run import execute

        print(execute(config))


def _train_each(configs: Sequence[Config]) -> None:
    """Train one run after the other, all of them, also where one fails; the first failure that is no mistake of the user is raised."""
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
    sections = [str(name) for name in tree]
    names = [*sections, *(f"{name}.{field}" for name in sections if isinstance(tree[name], DictConfig) for field in tree[name])]
    if package is not None and package not in names:
        raise UserError(f"--package {shown(package)}: there is no such section or setting.{did_you_mean(package, names)}")
    part = tree if package is None else OmegaConf.select(tree, package)
    print(OmegaConf.to_yaml(part) if OmegaConf.is_config(part) else f"{part}\n", end="")


def _with_example(settings: Sequence[str]) -> list[str]:
    """Return ``settings``, with an example of each choice without a default that they do not make."""
    given = {text.partition("=")[0] for text in settings}
    return [*settings, *(example for example in EXAMPLE if example.partition("=")[0] not in given)]


def _print_help(settings: Sequence[str]) -> None:
    check_names(settings)
    print(HEADER, flush=True)
    tree = compose_tree(_with_example(settings))
    print("== Choices (GROUP=NAME) ==")
    for group in sorted((*REGISTERED, *PRESETS)):
        print(f"{group}: {', '.join(registry.options(group))}")
    print("\n== Settings (KEY=VALUE), here those of method=instance_labels dataset=digits unless you named others ==")
    print(OmegaConf.to_yaml(tree), end="")
    print(FOOTER)


def _ask_hydra(what: str, settings: Sequence[str]) -> None:
    settings = _with_example(settings)
    compose_tree(settings)
    register_with_hydra()
    # Hydra prints through logging, which would print a traceback for each line that nobody reads any more (`... | head`).
    logging.raiseExceptions = False
    sys.argv[1:] = [f"--info={what}", *settings]
    hydra.main(config_path="pkg://repro.conf", config_name="train", version_base="1.3")(_nothing)()


def _nothing(composed: DictConfig) -> None:
    """Be what Hydra would run, which it is never asked to."""


if __name__ == "__main__":
    main()
