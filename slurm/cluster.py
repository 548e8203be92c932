"""A cluster as data: what jobs ask for, and how runs are executed there; nothing scientific. ``clusters/example.yaml`` has every key."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, field_validator

from sweeps.yaml_files import Model, find, read

_FOLDER = Path(__file__).resolve().parent / "clusters"

#: Options of sbatch that another key of the file says, or that the suite gives.
_GIVEN = (
    "array",
    "dependency",
    "error",
    "gres",
    "mem",
    "no-requeue",
    "ntasks-per-node",
    "open-mode",
    "output",
    "requeue",
    "signal",
    "time",
)


def minutes(value: object) -> int:
    """Return a time as SLURM writes it in minutes, rounded up. YAML reads one without quotes as a number."""
    match = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,3}):(\d\d):(\d\d)", value, re.ASCII) if isinstance(value, str) else None
    days, hours, mins, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = (days * 24 + hours) * 60 + mins + (seconds > 0)
    if not total:
        raise ValueError(f'a time in quotes is needed, such as "12:00:00" or "2-00:00:00", found {value!r}')
    return total


Minutes = Annotated[int, BeforeValidator(minutes)]
Memory = Annotated[str, StringConstraints(pattern=r"^[1-9]\d{0,8}[MGT]$")]
Count = Annotated[int, Field(ge=1)]


class ModelResources(Model):
    """What the jobs of one model ask for; what it does not say is said by the cluster."""

    partition: str | None = None
    time: Minutes | None = None
    memory: Memory | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu: str = "any"
    cpus: Count = 1
    runs_per_gpu: Count = 1


class Cluster(ModelResources):
    """One site. ``time`` is in minutes; it and ``cpus`` are those of a job, ``memory`` is that of a run."""

    partition: str
    time: Minutes
    memory: Memory
    by_model: dict[str, ModelResources] = Field(default={})
    max_jobs: Count | None = None
    max_parallel: Count | None = None
    warning_s: int = Field(default=120, ge=10, le=3600)
    setup: tuple[str, ...] = ()
    python: str | None = None
    srun: tuple[str, ...] = ()
    sbatch: dict[str, Any] = Field(default={})
    settings: dict[Annotated[str, StringConstraints(pattern=r"^(exec|tracker)(\.\w+)?$")], Any] = Field(default={})
    paths: dict[Literal["runs", "data"], Path] = Field(default={})

    @field_validator("sbatch")
    @classmethod
    def _not_given(cls, options: dict[str, Any]) -> dict[str, Any]:
        for option in options:
            if option.replace("_", "-") in _GIVEN:
                raise ValueError(f"{option} is given already, from the keys time, memory and gpu or by the suite. Leave it out.")
        return options

    @property
    def name(self) -> str:
        """The file's name without ``.yaml``."""
        return self.path.stem

    def of(self, model: str) -> Cluster:
        """Return the cluster as jobs of ``model`` have it."""
        own = self.by_model.get(model, ModelResources())
        return self.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})

    @property
    def cpus_per_run(self) -> int:
        """The cores of each of the runs that share a job."""
        return max(1, self.cpus // self.runs_per_gpu)

    def overrides(self) -> list[str]:
        """Return the overrides of a run here. One that is given a GPU trains on it or fails, and not on its node's processor for days."""
        settings: dict[str, Any] = {"exec.threads": self.cpus_per_run}
        settings |= {} if self.gpu == "none" else {"exec.device": "cuda"}
        return [f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in (settings | self.settings).items()]


def known_clusters() -> dict[str, Path]:
    """Return the files of the clusters that are known by name."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_cluster(name: str) -> Cluster:
    """Read the cluster of that name, or at that path, which ends in ``.yaml``.

    Raises:
        SpecError: there is none, or it has a mistake; the message names the file and the path of the value.
    """
    return read(Cluster, find(name, known_clusters(), "cluster"))
