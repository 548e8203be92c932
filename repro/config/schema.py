"""The settings of one run: their names, units, defaults and limits, and the checks between them.

Every open point of the paper that would change a number is a field here (or a field of a method) with the default of
``docs/deviations.md``; the row ids in the comments (A1, B5, ...) are that page's. ``exec``, ``tracker`` and ``paths`` hold what may not
change a result; everything else is a run's identity (:mod:`repro.config.identity`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from omegaconf import MISSING

from repro.config import registry
from repro.config.fields import setting, violations
from repro.errors import UserError

#: The sections of :class:`Config` that are no part of a run's identity.
NOT_SCIENTIFIC = ("exec", "tracker", "paths")


@dataclass
class MethodConfig:
    """Settings of a method; each method file extends it."""

    name: str = MISSING

    def contradictions(self, config: Config) -> list[str]:
        """Return what in these settings contradicts the rest of the run's, a sentence each."""
        return []


@dataclass
class DatasetConfig:
    """Settings of a dataset; each source file extends it."""

    name: str = MISSING


@dataclass
class ModelConfig:
    """Settings of an architecture; each model file extends it."""

    name: str = MISSING


@dataclass
class NoiseConfig:
    """Settings of a kind of label noise; each kind extends it."""

    name: str = MISSING
    seed: int | None = setting(None, help="seed of the noise; null: the run's seed (G2)", at_least=0)


@dataclass
class SplitConfig:
    """How the training images are cut into train, meta and validation sets."""

    name: str = setting(
        help="fold: held-out fold of a k-fold cut; clean_meta: a clean set of fixed size; verified: the images whose labels somebody has "
        "checked; full: nothing held out",
        choices=("fold", "clean_meta", "verified", "full"),
    )
    num_folds: int = setting(5, help="number of folds (paper: 5)", at_least=2)
    fold: int | None = setting(None, help="which fold is held out, from 0; only with split=fold", at_least=0)
    meta_size: int | None = setting(None, help="number of clean meta images; only with split=clean_meta", at_least=1)
    # A8: the paper's held-out set is meta set and validation set at once (null). A number cuts a disjoint validation set.
    validation_size: int | None = setting(
        None, help="number of clean validation images apart from the meta set; null: the meta set also validates", at_least=1
    )
    # A9
    stratified: bool = setting(True, help="draw held-out images class by class")
    seed: int | None = setting(None, help="seed of the cut; null: the run's seed", at_least=0)


@dataclass
class AugmentConfig:
    """What happens to a training image, drawn at each visit (A5, A6)."""

    name: str = setting("none", help="name of the preset")
    # Offsets up to twice the padding are kept as uint8.
    padding: int = setting(
        0, help="pixels added on each side before a random crop to the original size; 0: no crop", at_least=0, at_most=127
    )
    padding_mode: str = setting("zeros", help="what the added pixels hold", choices=("zeros", "reflect"))
    horizontal_flip: bool = setting(False, help="mirror each image with probability 1/2")
    normalization: str = setting(
        "dataset",
        help="mean and standard deviation per channel: the training set's, CIFAR-10's, the one the Meta-Weight-Net code uses; none: pixels "
        "in [0, 1]",
        choices=("dataset", "cifar10", "meta_weight_net", "none"),
    )


@dataclass
class OptimConfig:
    """How the model's parameters are trained: SGD and its schedule (A1-A4, A7); Adam for recipes of other systems."""

    name: str = setting(help="name of the recipe")
    algorithm: str = setting(
        "sgd", help="adam: for methods without look-ahead, which is a step of SGD", choices=("sgd", "adam"), neutral="sgd"
    )
    epochs: int = setting(help="passes over the training set", at_least=1, at_most=1_000_000)
    batch_size: int = setting(128, help="training images in a step (paper: 128)", at_least=1)
    learning_rate: float = setting(help="step size at the start", above=0.0)
    weight_decay: float = setting(help="factor of the squared-norm penalty's gradient", at_least=0.0)
    momentum: float = setting(0.0, help="factor of the velocity (A1); Adam's beta_1", at_least=0.0, below=1.0)
    nesterov: bool = setting(False, help="Nesterov's form of momentum (A2)")
    schedule: str = setting("step", help="learning rate over the epochs (A3)", choices=("constant", "step", "cosine", "linear"))
    milestones: list[int] = setting([], help="completed epochs after which the step schedule multiplies by gamma", at_least=1)
    gamma: float = setting(0.1, help="factor of the step schedule", above=0.0, at_most=1.0)
    decay_from: int = setting(0, help="completed epochs after which the linear schedule falls, to 0 at the end", at_least=0, neutral=0)
    late_momentum: float | None = setting(
        None, help="Adam's beta_1 from there on, with schedule=linear; null: as before", at_least=0.0, below=1.0, neutral=None
    )
    warmup_epochs: int = setting(0, help="epochs of linear growth from 0 to the learning rate (A4)", at_least=0)
    decay_norm_and_bias: bool = setting(True, help="weight decay on normalisation parameters and biases too (A4)")
    drop_last: bool = setting(False, help="leave out an incomplete last batch (A7); instance labels need false")


@dataclass
class MetaConfig:
    """The look-ahead step on the meta set (A10, A11, B5-B7, B11, B13)."""

    batch_size: int = setting(256, help="meta images in a step (paper: 256)", at_least=1)
    augment: bool = setting(True, help="augment meta images as training images are (A10)")
    sampler: str = setting(
        "cycle",
        help="cycle: without replacement, reshuffled after each pass; fresh: a new draw each step (A11)",
        choices=("cycle", "fresh"),
    )
    lookahead_learning_rate: str = setting(
        "current",
        help="step size of Eq. 3: the scheduled one, or the one of the first epoch throughout (B5)",
        choices=("current", "initial"),
    )
    lookahead_weight_decay: bool = setting(False, help="weight decay in Eq. 3 (B6)")
    lookahead_momentum: bool = setting(False, help="the optimiser's momentum in Eq. 3 (B6)")
    batch_norm: str = setting(
        "batch",
        help="BatchNorm in the meta pass (B7): batch statistics; the same and moving the running ones; the running ones",
        choices=("batch", "batch_and_update", "running"),
    )
    use_updated: bool = setting(True, help="Eq. 6 uses the coefficients after their update (B11)")
    interval: int = setting(1, help="meta step at every k-th training step; above 1 is an approximation (B13)", at_least=1)


@dataclass
class TrajectoryConfig:
    """What is recorded of the labels over training."""

    record: bool = setting(True, help="record the labels of methods that learn them")
    when: str = setting("after", help="an instance's label before or after the update at its visit (C3)", choices=("before", "after"))
    gradient: bool = setting(
        False, help="log at how many visits the gradient of instance labels points the right way (label/gradient_right_...)", neutral=False
    )
    predictions: bool = setting(
        True, help="sum the network's predictions for each training image over its visits, for predictions.npz", neutral=True
    )
    # C8
    dtype: str = setting("float16", help="how instance labels are stored", choices=("float16", "float32"), neutral="float16")


@dataclass
class InputsConfig:
    """The finished runs that this run reads, by run id; their ids are part of this run's identity.

    ``python -m sweeps`` finds the ids and trains those runs first; each must lie in ``paths.runs`` and be done.
    """

    labels: list[str] = setting([], help="runs whose label trajectories are averaged, such as the five folds", neutral=[])
    teacher: str | None = setting(None, help="run whose model teaches; only with method=distillation", neutral=None)


@dataclass
class ExecConfig:
    """How a run is executed; no field may change a number beyond the documented tolerance (docs/execution.md)."""

    name: str = setting(help="name of the preset")
    device: str = setting("auto", help="auto: CUDA if there is one, else cpu; mps only on request", choices=("auto", "cpu", "cuda", "mps"))
    threads: int | None = setting(None, help="CPU threads of one operation; null: PyTorch's choice", at_least=1, at_most=1024)
    allow_tf32: bool = setting(False, help="TensorFloat-32 in matrix products on CUDA")
    precision: str = setting(
        "float32",
        help="of convolutions and matrix products: float32, or bfloat16 by autocast, while parameters, labels and losses stay float32; "
        "auto: on CUDA with TensorFloat-32, channels-last images and, where the method allows it, CUDA graphs; elsewhere float32",
        choices=("auto", "float32", "bfloat16"),
    )
    channels_last: bool = setting(False, help="keep images as (B, H, W, C) in memory, which GPUs multiply faster")
    compile: bool = setting(False, help="run each step as one compiled program (torch.compile); the first one takes a minute")
    cuda_graphs: bool = setting(False, help="replay each step as a CUDA graph; only on CUDA")
    eval_batch_size: int = setting(1000, help="images in a forward pass of an evaluation", at_least=1)
    checkpoint_interval_s: float = setting(60.0, help="seconds between checkpoints; one is also written on a stop signal", at_least=0.0)
    heartbeat_s: float = setting(15.0, help="seconds between two heartbeats in status.json", at_least=0.01, at_most=86400.0)
    save_model: bool = setting(True, help="write model.safetensors at the end")
    debug: bool = setting(False, help="train one batch in each of two epochs, check and show everything, and keep no file")
    on_changed_code: str = setting(
        "refuse",
        help="where the folder was made by a different version of the code; retrain: the old folder goes to archive/; accept: as it is",
        choices=("refuse", "retrain", "accept"),
    )


@dataclass
class TrackerConfig:
    """The Weights & Biases mirror of metrics.jsonl."""

    name: str = setting(
        help="where the mirror goes; auto: online if the server answers within 3 seconds, else offline",
        choices=("offline", "online", "auto", "none"),
    )
    project: str = setting("soft-labels-repro", help="W&B project")
    entity: str | None = setting(None, help="W&B user or team; null: the account's default")
    picture_epochs: int = setting(10, help="epochs between two label heat maps; the last epoch has one too; 0: none", at_least=0)


@dataclass
class PathsConfig:
    """The two big folders."""

    runs: str = setting("${oc.env:REPRO_RUNS,runs}", help="where run folders go; $REPRO_RUNS")
    data: str = setting("${oc.env:REPRO_DATA,data}", help="where datasets lie; $REPRO_DATA")


@dataclass
class Config:
    """Everything that is needed to train one run. There is no default method, dataset or seed."""

    method: MethodConfig = MISSING
    dataset: DatasetConfig = MISSING
    model: ModelConfig = MISSING
    noise: NoiseConfig = MISSING
    split: SplitConfig = MISSING
    augment: AugmentConfig = MISSING
    optim: OptimConfig = MISSING
    meta: MetaConfig = field(default_factory=MetaConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    inputs: InputsConfig = field(default_factory=InputsConfig)
    seed: int = setting(help="names every random stream of the run; 0 is a seed like any other", at_least=0)
    exec: ExecConfig = MISSING
    tracker: TrackerConfig = MISSING
    paths: PathsConfig = field(default_factory=PathsConfig)


def check(config: Config) -> None:
    """Check every limit, and every pair of settings of which one would be without effect or make a wrong number.

    Raises:
        UserError: with all the problems found, a line each.
    """
    # A setting out of its limits is told alone: what it would contradict says nothing more.
    if problems := list(violations(config)) or list(_contradictions(config)):
        raise UserError("\n".join(problems))


def _contradictions(config: Config) -> Iterator[str]:
    for group in registry.GROUPS:
        settings = getattr(config, group)
        if type(settings) is not registry.get(group, settings.name).config:
            yield f"{group}.name={settings.name}: the name follows the choice. Write {group}={settings.name}."
    yield from config.method.contradictions(config)
    split, optim = config.split, config.optim
    method = registry.get("method", config.method.name).build
    for name, needed_by in (("fold", "fold"), ("meta_size", "clean_meta")):
        number = getattr(split, name)
        if (number is None) == (split.name == needed_by):
            yield f"split={split.name} split.{name}={number}: split={needed_by} needs a number there, and the others have none."
    if split.fold is not None and split.fold >= split.num_folds:
        yield f"split.fold={split.fold}: must be below split.num_folds={split.num_folds}."
    if split.name == "fold" and config.noise.name != "none":
        yield f"noise={config.noise.name} contradicts split=fold: held-out images need clean labels (G4). Use split=clean_meta."
    if split.name == "full" and method.uses_meta:
        yield f"split=full contradicts method={config.method.name}, which learns from a meta set: use split=fold or split=clean_meta."
    if optim.algorithm == "adam" and method.uses_meta:
        yield f"optim.algorithm=adam contradicts method={config.method.name}, whose look-ahead (Eq. 3) is a step of SGD."
    if optim.algorithm == "adam" and optim.momentum == 0.0:
        yield "optim.algorithm=adam contradicts optim.momentum=0, which is its beta_1: use optim.momentum=0.9."
    if optim.schedule != "step" and optim.milestones:
        yield f"optim.milestones={optim.milestones} contradicts optim.schedule={optim.schedule}: use optim.milestones=[]."
    if config.trajectory.gradient and (config.exec.compile or config.exec.cuda_graphs):
        yield "trajectory.gradient=true contradicts exec.compile and exec.cuda_graphs: it looks into single steps."
