"""What the formulas are made of: facts of a model go in, named terms that add up to each phase come out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from profiler.trace.phase import Phase


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor.

    Attributes:
        shape: of the tensor.
        element_bytes: of one of its values.
        embedding: whether it is an embedding's table.
        trainable: whether it requires a gradient; frozen ones do not.
        used: whether the loss depends on it, so that its gradient is ever made.
        first_use: position among the operations of the forward pass of the first that reads it.
        tied: whether the forward pass uses it in two places, so that two gradients are added up.
        transposed: whether one of these comes from a linear layer that used the parameter itself. It is then
            a transposed view, which autograd does not add to in place: their sum is a third tensor.
    """

    shape: tuple[int, ...]
    element_bytes: int = 4
    embedding: bool = False
    tied: bool = False
    transposed: bool = False
    trainable: bool = True
    used: bool = True
    first_use: int = 0

    @property
    def trained(self) -> bool:
        """Whether it gets a gradient, and with it the optimizer's states."""
        return self.trainable and self.used

    @property
    def elements(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """Of the parameter itself, and of its gradient."""
        return self.elements * self.element_bytes


@dataclass(frozen=True)
class RecomputedSegment:
    """The moment in the backward pass when a checkpointed segment has been computed again.

    Attributes:
        kept_bytes: activations that the forward pass made before the segment, still held for what is to come.
        recomputed_bytes: activations of the segment itself, as they would be without checkpointing.
        output_gradient_bytes: the gradient of the segment's output, from which its backward pass starts.
        gradient_bytes: gradients of the parameters that are used after the segment only: they are there.
    """

    kept_bytes: int
    recomputed_bytes: int
    output_gradient_bytes: int
    gradient_bytes: int


@dataclass(frozen=True)
class ModelFacts:
    """Sizes of one workload's tensors, for one micro-batch.

    Attributes:
        parameters: each parameter tensor, in the order of `model.parameters()` (tied ones once).
        buffer_bytes: all buffers, and scales of quantized weights, together; not trained and not saved.
        input_bytes: one micro-batch.
        saved_bytes: activations kept at the end of the forward pass, the loss and the next two excluded.
        loss_bytes: the loss.
        weight_copy_bytes: autocast's 16-bit copies of weights, kept for the backward pass.
        random_state_bytes: states of the random generator that checkpoints keep, in host memory.
        cast_bytes: all 16-bit copies of weights that autocast caches until the end of the forward pass.
        loss_forward_bytes: what the forward pass holds beyond its end (and the casts) once there are
            log-probabilities: the logits.
        loss_backward_bytes: what the backward pass's start adds: gradients of log-probabilities and logits.
        segments: of the checkpointed model, in order; none without checkpointing.
    """

    parameters: tuple[Parameter, ...]
    buffer_bytes: int
    input_bytes: int
    saved_bytes: int
    loss_bytes: int
    weight_copy_bytes: int = 0
    random_state_bytes: int = 0
    cast_bytes: int = 0
    loss_forward_bytes: int = 0
    loss_backward_bytes: int = 0
    segments: tuple[RecomputedSegment, ...] = ()

    @property
    def total_parameter_bytes(self) -> int:
        """All parameters together."""
        return sum(parameter.size_bytes for parameter in self.parameters)

    @property
    def trained(self) -> tuple[Parameter, ...]:
        """The parameters that get a gradient."""
        return tuple(parameter for parameter in self.parameters if parameter.trained)


@dataclass(frozen=True)
class Term:
    """One summand: `category` as in profiler.trace.ledger, the bytes, how they come about, who says so."""

    category: str
    size_bytes: int
    expression: str
    source: str


def total_bytes(terms: Iterable[Term]) -> int:
    """What the terms add up to."""
    return sum(term.size_bytes for term in terms)


@dataclass(frozen=True)
class PhaseTerms:
    """What a formula says of one phase: the terms alive at its end, and those at its peak."""

    phase: Phase
    end: tuple[Term, ...]
    peak: tuple[Term, ...]

    @property
    def end_bytes(self) -> int:
        """Allocated when the phase ends."""
        return total_bytes(self.end)

    @property
    def peak_bytes(self) -> int:
        """Allocated at the peak of the phase."""
        return total_bytes(self.peak)

    def summands(self) -> list[tuple[Term, str]]:
        """Each term once, and when it is alive: at the "end", at the "peak", or at "end and peak"."""
        always = [(term, "end and peak") for term in self.end if term in self.peak]
        at_end = [(term, "end") for term in self.end if term not in self.peak]
        return [*always, *at_end, *((term, "peak") for term in self.peak if term not in self.end)]

    def to_dict(self) -> dict[str, Any]:
        """As plain values: the phase, both sums, and each term with when it is alive."""
        return {
            "phase": str(self.phase),
            "end_bytes": self.end_bytes,
            "peak_bytes": self.peak_bytes,
            "terms": [{**asdict(term), "alive_at": when} for term, when in self.summands()],
        }


def highest_phase(phases: Sequence[PhaseTerms]) -> PhaseTerms:
    """The phase with the highest peak; the earliest of equals."""
    return max(phases, key=lambda phase: phase.peak_bytes)
