"""The setting that somebody meant who typed another name."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

#: What the last part of a name is called elsewhere, in lower case without ``_`` and ``-``.
_FIELDS = {
    "learning_rate": "lr stepsize",
    "weight_decay": "wd l2",
    "batch_size": "bs batch minibatch",
    "epochs": "epoch nepochs numepochs maxepochs",
    "momentum": "mom beta1",
    "schedule": "scheduler lrschedule lrscheduler",
    "gamma": "lrdecay",
    "milestones": "steps",
    "warmup_epochs": "warmup",
    "algorithm": "optimizer",
    "seed": "randomseed",
    "rate": "noiserate noiselevel ratio level",
    "device": "gpu cuda",
    "debug": "fastdevrun dryrun",
    "threads": "nthreads numthreads workers numworkers",
    "precision": "amp fp16 bf16",
    "allow_tf32": "tf32",
    "num_folds": "folds nfolds k",
    "validation_size": "valsize",
    "temperature": "temp t",
    "alpha": "smoothing epsilon",
    "runs": "outputdir outdir rundir logdir",
    "data": "datadir datapath",
    "project": "wandbproject",
    "entity": "wandbentity",
}

#: What a section is called elsewhere.
_SECTIONS = {
    "optim": "optimizer opt train training",
    "dataset": "data",
    "model": "arch net network backbone",
    "augment": "aug augmentation transform",
    "tracker": "wandb logger",
    "exec": "execution",
    "method": "loss",
}

#: Where a field is looked for that several sections have.
_ORDER = ("optim", "method", "noise", "model", "exec")


def nearest(key: str, known: Collection[str]) -> str:
    """Return ``" Did you mean 'optim.learning_rate'?"`` for ``key``, or an empty string where none of the names ``known`` is near.

    The field's name decides, first in the section that was typed: ``optim.lr`` is nearer to ``optim.learning_rate`` than to ``optim``.
    """
    typed, _, field = key.rpartition(".")
    section = _ours(typed.partition(".")[0], _SECTIONS)
    dotted = sorted((name for name in known if "." in name and _last(name) != "name"), key=_rank)
    if section:
        found = _within(section, field, dotted) or _called(field, dotted)
    elif _ours(key, _SECTIONS) != key and _ours(key, _FIELDS) == key:
        found = _ours(key, _SECTIONS)
    else:
        whole = difflib.get_close_matches(key, sorted(name for name in known if _last(name) != "name"), n=1, cutoff=0.6)
        found = _called(key, [name for name in known if "." not in name]) or _called(key, dotted) or next(iter(whole), None)
    return _did_you_mean(found or _close(field, dotted, 0.6))


def nearest_of_some(key: str, some: Collection[str]) -> str:
    """Return the answer of :func:`nearest` where it lies among ``some`` of the names and no other could be nearer, else an empty string.

    Of a section all names are there or none.
    """
    typed, _, field = key.rpartition(".")
    if typed:
        return _did_you_mean(_within(_ours(typed.partition(".")[0], _SECTIONS), field, sorted(some)))
    single = sorted(name for name in some if "." not in name)
    first = sorted(name for name in some if name.startswith(f"{_ORDER[0]}.") and _last(name) != "name")
    return _did_you_mean(_called(key, single) or _called(key, first) or _close(key, single, 0.8))


def _did_you_mean(found: str | None) -> str:
    return f" Did you mean '{found}'?" if found else ""


def _within(section: str, field: str, names: Sequence[str]) -> str | None:
    within = [name for name in names if name.startswith(f"{section}.") and _last(name) != "name"]
    return _called(field, within) or _close(field, within, 0.7)


def _ours(word: str, table: dict[str, str]) -> str:
    """Return what a word that is usual elsewhere is called here; other words as they are."""
    return next((name for name, words in table.items() if _plain(word) in words.split()), word)


def _called(field: str, names: Sequence[str]) -> str | None:
    """Return the first of ``names`` whose last part is ``field``, but for the spelling, or what ``field`` is called elsewhere."""
    wanted = (_plain(field), _plain(_ours(field, _FIELDS)))
    return next((name for word in wanted for name in names if _plain(_last(name)) == word), None)


def _close(field: str, names: Sequence[str], cutoff: float) -> str | None:
    """Return the first of ``names`` whose last part is spelt much like ``field``."""
    last = difflib.get_close_matches(field.lower(), [_last(name) for name in names], n=1, cutoff=cutoff)
    return next((name for name in names if _last(name) in last), None)


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _rank(name: str) -> tuple[int, str]:
    return (*_ORDER, name.partition(".")[0]).index(name.partition(".")[0]), name
