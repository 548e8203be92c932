"""What a method is: a choice of the training loss's coefficients.

The training loss of a batch is ``L(theta, C) = -sum_ik C_ik log f_k(x_i; theta)`` with coefficients C of shape (B, K). One-hot
targets, soft labels and per-example weights are all a choice of C. A meta method is a differentiable map from its own parameters
to C; the engine (:mod:`repro.engine.lookahead`) hands it dL_meta/dC and it back-propagates that through its own map.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from typing_extensions import override

from repro.engine.optimizer import Optimizer
from repro.runs.inputs import Inputs

if TYPE_CHECKING:
    from repro.config.schema import OptimConfig
    from repro.data.prepare import RunData


@dataclass(frozen=True)
class Context:
    """What a method may know before training starts.

    Attributes:
        num_classes: K.
        observed: labels (N,) of the training images as annotated, right or wrong, on the device.
        device: where its parameters live.
        seed: of the run, for methods that draw random numbers (stream ``method``).
        epochs: how many the run trains.
        steps_per_epoch: training steps of an epoch.
        inputs: the finished runs that the method reads.
        data: the run's images, for methods that look at more of them than the batch.
        transition: probability (K, K) that an image of class i is annotated as j, by the settings of the run's noise.
        optim: the recipe, for methods that train a second network by it.
        make_network: makes another network of the run's architecture, on the device, with first weights of their own stream, which its
            argument names.
    """

    num_classes: int
    observed: Int[Tensor, " instances"]
    device: torch.device
    seed: int
    epochs: int = 1
    steps_per_epoch: int = 1
    inputs: Inputs = field(default_factory=Inputs)
    data: RunData | None = None
    transition: Float[Tensor, "classes classes"] | None = None
    optim: OptimConfig | None = None
    make_network: Callable[[str], nn.Module] | None = None


@dataclass(frozen=True)
class Visit:
    """Which images a step trains on, and when: what is known before the network sees them.

    Attributes:
        rows: positions (B,) of the images in the training set.
        observed: their labels (B,) as annotated.
        epoch: completed epochs before this step.
        step: completed steps of the present epoch.
    """

    rows: Int[Tensor, " batch"]
    observed: Int[Tensor, " batch"]
    epoch: int
    step: int


@dataclass(frozen=True)
class Batch:
    """One training batch inside a step. It has no epoch: a step is noted once and repeated (:mod:`repro.engine.compiled`).

    Attributes:
        rows: positions (B,) of its images in the training set.
        observed: their labels (B,) as annotated.
        log_probabilities: log f (B, K) of the present forward pass, detached; for methods whose coefficients depend on the loss.
        inputs: what the network sees (B, C, H, W), augmented and normalised; for methods with a network of their own.
        given: what :meth:`Method.given` returned for this step.
    """

    rows: Int[Tensor, " batch"]
    observed: Int[Tensor, " batch"]
    log_probabilities: Float[Tensor, "batch classes"]
    inputs: Float[Tensor, "batch ..."] | None = None
    given: tuple[Tensor, ...] = ()


class Method(nn.Module, ABC):
    """Base of all methods. A subclass is registered with ``@registry.method``.

    Subclasses that learn set ``uses_meta`` and implement :meth:`update`; the others only :meth:`targets` or :meth:`coefficients`. A method
    is a module so that its buffers and the networks in it are its state, for the checkpoint: what training changes is one of them, and is
    changed in place.
    """

    #: Whether the look-ahead step on the meta set is taken.
    uses_meta: ClassVar[bool] = False
    #: Whether a step can be noted once and repeated as one program: all that the method does in a step are operations on tensors, the same
    #: ones at every step, and what it keeps is changed in place. What depends on the epoch or is drawn at random comes from :meth:`given`.
    repeatable: ClassVar[bool] = False
    #: How many networks of the run's architecture it trains, for the estimate of costs.
    num_networks: ClassVar[int] = 1
    #: Whether it weighs examples, so that the coefficients of a batch need not sum to 1.
    weighs: ClassVar[bool] = False
    #: What :mod:`repro.labels.recorder` records: "instance" (a distribution per instance), "class" (a number per class), or nothing.
    trajectory: ClassVar[str | None] = None
    #: What it reads of other runs: ``labels``, ``teacher``, or nothing.
    reads: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any, context: Context) -> None:
        super().__init__()
        self.config = config
        self.context = context

    @classmethod
    def reads_inputs(cls, config: Any) -> tuple[str, ...]:
        """Return what the method :attr:`reads` with these settings."""
        return cls.reads

    def keep(self, name: str, tensors: Iterable[Tensor]) -> None:
        """Make ``tensors``, such as those of an optimiser, part of the state."""
        for index, tensor in enumerate(tensors):
            self.register_buffer(f"{name}{index}", tensor)

    def given(self, visit: Visit) -> tuple[Tensor, ...]:
        """Return what the step at ``visit`` needs beside the method's state, as tensors on the device, of the same shapes at every step.

        It is called before each step, outside of what is noted and repeated: here is the place for what depends on the epoch or the step,
        and for random draws. The step finds it as ``batch.given``.
        """
        return ()

    def optimizers(self) -> tuple[Optimizer, ...]:
        """Return the optimisers of networks that the method owns, whose learning rates change."""
        return ()

    def coefficients(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Return C (B, K) of the real step (Eq. 6), without a gradient; targets / n where a method has no other rule."""
        return self.targets(batch.rows) / len(batch.rows)

    def lookahead_coefficients(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        """Return C (B, K) of the look-ahead step (Eq. 3), where dL_meta/dC is evaluated, without a gradient."""
        return self.coefficients(batch)

    def loss(self, log_probabilities: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""] | None:
        """Return the scalar training loss of log f (B, K), or ``None`` where it is linear: given by :meth:`coefficients` alone."""
        return None

    def learns_at(self, epoch: int) -> bool:
        """Say whether the meta step is taken after ``epoch`` completed epochs (B12: label learning may start late)."""
        return self.uses_meta

    def update(self, batch: Batch, gradient: Float[Tensor, "batch classes"]) -> None:
        """Take one step on the method's own parameters, given dL_meta/dC (B, K)."""
        raise AssertionError(f"{type(self).__name__} does not learn, so it is never updated")

    def trust(self, batch: Batch, coefficients: Float[Tensor, "batch classes"] | None) -> Float[Tensor, " batch"] | None:
        """Return how far the method trusts the annotation of each image (B,) at the step just taken; ``None``: it has no opinion.

        It is the coefficient of the annotated class, where 1 is that of a one-hot label in an unweighted loss: the label's probability, the
        image's weight, or both. ``coefficients`` (B, K) are those of the real step, ``None`` where the loss is more than they say.
        """
        return None if coefficients is None else coefficients.gather(1, batch.observed.unsqueeze(1)).squeeze(1) * len(batch.rows)

    def after_step(self, batch: Batch) -> None:  # most methods have nothing to do
        """Take note of the model's real step on ``batch``.

        Called once a step, whereas :meth:`coefficients` and :meth:`loss` may be evaluated any number of times: methods that own
        parameters trained by the loss, running averages or a second network move them here.
        """

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks beside the run's model that are evaluated after each epoch, by the name that their metrics begin with."""
        return {}

    @abstractmethod
    def targets(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows classes"]:
        """Return the present target distributions (len(rows), K) of the given training instances; each row sums to 1."""

    def class_parameters(self) -> Float[Tensor, " classes"]:
        """Return the present per-class numbers (K,) of a method with ``trajectory = "class"``."""
        raise AssertionError(f"{type(self).__name__} has no per-class parameters")


class AnnotatedTargets(Method):
    """A method whose targets are the annotated classes: it changes the loss, or the weights of images, and no label."""

    @override
    def targets(self, rows: Int[Tensor, " rows"]) -> Float[Tensor, "rows classes"]:
        return one_hot(self.context.observed[rows], self.context.num_classes)


class WeighedImages(AnnotatedTargets):
    """A method that weighs images: C_ik = w_i [k = y_i], with weights of its own in place of 1 / n."""

    weighs = True

    @abstractmethod
    def weights(self, batch: Batch) -> Float[Tensor, " batch"]:
        """Return w (B,) of the real step, without a gradient."""

    @override
    def coefficients(self, batch: Batch) -> Float[Tensor, "batch classes"]:
        return one_hot(batch.observed, self.context.num_classes) * self.weights(batch).unsqueeze(1)


def one_hot(labels: Int[Tensor, " batch"], num_classes: int) -> Float[Tensor, "batch {num_classes}"]:
    """Return one-hot rows (B, K) of integer labels (B,), in PyTorch's default type."""
    # torch.nn.functional.one_hot looks at the labels to check them, and a GPU would have to wait for that.
    return torch.eye(num_classes, device=labels.device).index_select(0, labels)


def smoothed(
    labels: Int[Tensor, " batch"], target_probability: Float[Tensor, "batch 1"] | float, num_classes: int
) -> Float[Tensor, "batch {num_classes}"]:
    """Return rows (B, K) with ``target_probability`` on the label and the rest spread evenly over the other classes (section 2.1)."""
    if isinstance(target_probability, float):
        rest = (1.0 - target_probability) / (num_classes - 1)
        by_class = torch.full((num_classes, num_classes), rest, dtype=torch.get_default_dtype(), device=labels.device)
        return by_class.fill_diagonal_(target_probability).index_select(0, labels)
    hot = one_hot(labels, num_classes)
    return hot * target_probability + (1.0 - hot) * ((1.0 - target_probability) / (num_classes - 1))
