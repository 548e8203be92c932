"""The setting that somebody meant who typed another name."""

from __future__ import annotations

import difflib
from collections.abc import Collection

#: What the last part of a name is called elsewhere, in lower case without ``_`` and ``-``.
_FIELDS = {
    "lr": "learning_rate",
    "stepsize": "learning_rate",
    "wd": "weight_decay",
    "l2": "weight_decay",
    "bs": "batch_size",
    "batch": "batch_size",
    "minibatch": "batch_size",
    "epoch": "epochs",
    "nepochs": "epochs",
    "numepochs": "epochs",
    "maxepochs": "epochs",
    "mom": "momentum",
    "beta1": "momentum",
    "scheduler": "schedule",
    "lrschedule": "schedule",
    "lrscheduler": "schedule",
    "lrdecay": "gamma",
    "steps": "milestones",
    "warmup": "warmup_epochs",
    "optimizer": "algorithm",
    "randomseed": "seed",
    "noiserate": "rate",
    "noiselevel": "rate",
    "ratio": "rate",
    "level": "rate",
    "gpu": "device",
    "cuda": "device",
    "nthreads": "threads",
    "numthreads": "threads",
    "workers": "threads",
    "numworkers": "threads",
    "amp": "precision",
    "fp16": "precision",
    "bf16": "precision",
    "tf32": "allow_tf32",
    "folds": "num_folds",
    "nfolds": "num_folds",
    "k": "num_folds",
    "valsize": "validation_size",
    "temp": "temperature",
    "t": "temperature",
    "smoothing": "alpha",
    "epsilon": "alpha",
    "outputdir": "runs",
    "outdir": "runs",
    "rundir": "runs",
    "logdir": "runs",
    "datadir": "data",
    "datapath": "data",
    "wandbproject": "project",
    "wandbentity": "entity",
}

#: What a section is called elsewhere.
_SECTIONS = {
    "optimizer": "optim",
    "opt": "optim",
    "train": "optim",
    "training": "optim",
    "data": "dataset",
    "arch": "model",
    "net": "model",
    "network": "model",
    "backbone": "model",
    "aug": "augment",
    "augmentation": "augment",
    "transform": "augment",
    "wandb": "tracker",
    "logger": "tracker",
    "execution": "exec",
    "loss": "method",
}

#: Where a field is looked for that several sections have.
_ORDER = ("optim", "method", "noise", "model", "exec")


def nearest(key: str, known: Collection[str]) -> str:
    """Return ``" Did you mean 'optim.learning_rate'?"`` for ``key``, or an empty string where none of the names ``known`` is near.

    The field's name decides, first in the section that was typed: ``optim.lr`` is nearer to ``optim.learning_rate`` than to ``optim``.
    """
    found = _nearest(key, [name for name in known if _last(name) != "name"])
    return f" Did you mean '{found}'?" if found else ""


def _nearest(key: str, known: Collection[str]) -> str | None:
    typed, _, field = key.rpartition(".")
    typed = typed.partition(".")[0]
    section = _SECTIONS.get(_plain(typed), typed)
    dotted = sorted((name for name in known if "." in name), key=_rank)
    if section:
        within = [name for name in dotted if name.partition(".")[0] == section]
        near = _called(field, within) or _close(field, within, 0.7) or _called(field, dotted)
        return near or _whole(key, dotted) or _close(field, dotted, 0.6)
    bare = [name for name in known if "." not in name]
    if _plain(key) in _SECTIONS and _plain(key) not in _FIELDS:
        return _SECTIONS[_plain(key)]
    return _called(key, bare) or _called(key, dotted) or _whole(key, known) or _close(key, dotted, 0.6)


def _called(field: str, names: Collection[str]) -> str | None:
    """Return the first of ``names`` whose last part is ``field``, but for the spelling, or what ``field`` is called elsewhere."""
    plain = _plain(field)
    wanted = (plain, _plain(_FIELDS.get(plain, field)))
    return next((name for word in wanted for name in names if _plain(_last(name)) == word), None)


def _close(field: str, names: Collection[str], cutoff: float) -> str | None:
    """Return the first of ``names`` whose last part is spelt much like ``field``."""
    last = difflib.get_close_matches(field.lower(), [_last(name) for name in names], n=1, cutoff=cutoff)
    return next((name for name in names if _last(name) in last), None)


def _whole(key: str, names: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(key, list(names), n=1, cutoff=0.6)), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _rank(name: str) -> tuple[int, str]:
    section = name.partition(".")[0]
    return (_ORDER.index(section) if section in _ORDER else len(_ORDER), name)
