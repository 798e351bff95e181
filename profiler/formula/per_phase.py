"""The formula of a training step: named terms, each with its source, that add up to the bytes of a phase.

It is what torch really keeps at each boundary. Activations die during the backward pass, so they and the full
set of gradients never meet; the step adds the optimizer's temporaries.

`phase_terms` gives for each phase the level at its end and a lower bound of its peak: the largest of a few
moments (the start of the backward pass, each checkpointed segment when it has been recomputed, the end). The
gradients of activations inside a layer are not in the formula: the simulation has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from profiler.formula.optimizer_states import initial_terms, state_terms
from profiler.formula.optimizer_temporaries import step_temporaries
from profiler.formula.terms import ModelFacts, Parameter, PhaseTerms, RecomputedSegment, Term, total_bytes
from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, OPTIMIZER_STEP, Phase, phases
from profiler.workload import Workload

_AFTER_SCALING = Phase(1, BACKWARD)
_ACCUMULATE_GRAD = (
    "one .grad a parameter that is trained and used, of its shape and dtype "
    "(torch/csrc/autograd/functions/accumulate_grad.h)"
)
_LOSS_SCALE_BYTES = 8  # torch/amp/grad_scaler.py: _scale (fp32) and _growth_tracker (int32)


def phase_terms(workload: Workload, facts: ModelFacts, device_type: str) -> list[PhaseTerms]:
    """The per-phase formula for each phase of the workload's steps.

    `device_type` ("cpu" or "cuda") decides the optimizer implementation that torch picks by itself, what is
    in host memory, and which kernels need temporaries.
    """
    weights = (parameters_term(facts), *_buffers(facts))
    initial = tuple(initial_terms(workload, facts.parameters, device_type))
    states = (*state_terms(workload, facts.parameters, device_type), *_loss_scale(workload, _AFTER_SCALING))
    gradients = (gradients_term(facts),)
    inputs, activations, loss = (_inputs(facts),), tuple(_activations(facts, device_type)), (_loss(facts),)

    def terms(phase: Phase) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
        """What is alive at the end and at the peak of a phase."""
        resting = weights + initial + (states if phase.step > 1 else _loss_scale(workload, phase))
        accumulated = gradients if phase.micro_batch > 1 else ()
        stepped = weights + initial + states + gradients + inputs + loss
        if phase.name == MODEL_LOADED:
            return weights, weights
        if phase.name == FORWARD:
            kept = resting + accumulated + inputs + activations
            return kept, kept + _cached_casts(facts) + _logits(facts)
        if phase.name == BACKWARD:
            moments = _backward_moments(facts, resting + inputs, accumulated, activations, loss)
            return moments[-1], max(moments, key=total_bytes)
        if phase.name == OPTIMIZER_STEP:
            step = step_temporaries(workload, facts.parameters, device_type, first_step=phase.step == 1)
            return stepped, stepped + tuple(step)
        return weights + initial + states, stepped

    return [PhaseTerms(phase, *terms(phase)) for phase in phases(workload)]


def _backward_moments(
    facts: ModelFacts,
    resting: tuple[Term, ...],
    accumulated: tuple[Term, ...],
    activations: tuple[Term, ...],
    loss: tuple[Term, ...],
) -> list[tuple[Term, ...]]:
    """Moments of the backward pass, and what is alive at each for certain; the last one is its end.

    `accumulated` are the gradients of earlier micro-batches.
    """
    moments = [resting + accumulated + activations + _loss_gradient(facts)]
    for segment in facts.segments:
        moments.append(resting + (accumulated or _gradients_after(segment)) + loss + _recomputed(segment))
    if accumulated and facts.trained:
        largest = max(facts.trained, key=lambda parameter: _further_bytes(parameter, True))
        moments.append(resting + accumulated + loss + _further_gradients(largest, True))
    else:
        for tied in (parameter for parameter in facts.trained if parameter.tied):
            there = (gradients_term(facts, _after(facts, tied)),)
            moments.append(resting + there + loss + _further_gradients(tied, False))
    return [*moments, (*resting, gradients_term(facts), *loss)]


def _after(facts: ModelFacts, parameter: Parameter) -> list[Parameter]:
    """The parameters whose gradients are complete when the last part of this one's is made: it, and those
    that the forward pass first used after it (the backward pass runs its operations in reverse order:
    torch/csrc/autograd/engine.cpp, CompareNodeTaskTime).
    """
    return [p for p in facts.trained if p is parameter or p.first_use > parameter.first_use]


def parameters_term(facts: ModelFacts) -> Term:
    """The weights."""
    return Term(
        "parameters",
        facts.total_parameter_bytes,
        f"{_each(facts.parameters)} parameters",
        "torch.nn.Module.parameters, tied ones once",
    )


def _each(parameters: Sequence[Parameter]) -> str:
    """Their values times the size of one, as in "4 B × 1,000"; a summand for each size."""
    elements: Counter[int] = Counter()
    for parameter in parameters:
        elements[parameter.element_bytes] += parameter.elements
    return " + ".join(f"{width} B × {count:,}" for width, count in elements.items()) or "0 B × 0"


def _buffers(facts: ModelFacts) -> Iterator[Term]:
    if facts.buffer_bytes:
        yield Term(
            "inputs", facts.buffer_bytes, f"{facts.buffer_bytes:,} B buffers", "torch.nn.Module.buffers"
        )


def _inputs(facts: ModelFacts) -> Term:
    return Term(
        "inputs", facts.input_bytes, f"{facts.input_bytes:,} B inputs", "the micro-batch, until zero_grad"
    )


def _activations(facts: ModelFacts, device_type: str) -> Iterator[Term]:
    yield Term(
        "activations",
        facts.saved_bytes + facts.loss_bytes,
        f"{facts.saved_bytes:,} B saved + {facts.loss_bytes:,} B loss",
        "saved by the autograd graph's nodes (torch/csrc/autograd/saved_variable.h), or by checkpoints "
        "(torch/utils/checkpoint.py)",
    )
    if facts.weight_copy_bytes:
        yield Term(
            "activations",
            facts.weight_copy_bytes,
            f"{facts.weight_copy_bytes:,} B 16-bit copies of weights",
            "aten/src/ATen/autocast_mode.cpp, cached_cast; saved by the matrix products",
        )
    if facts.random_state_bytes and device_type == "cpu":
        yield Term(
            "activations",
            facts.random_state_bytes,
            f"{facts.random_state_bytes:,} B random states",
            "torch/utils/checkpoint.py, preserve_rng_state: one state a segment, in host memory",
        )


def _loss(facts: ModelFacts) -> Term:
    return Term("activations", facts.loss_bytes, f"{facts.loss_bytes:,} B loss", "held by the training loop")


def gradients_term(facts: ModelFacts, trained: Sequence[Parameter] | None = None) -> Term:
    """All gradients, or those of some parameters."""
    trained = facts.trained if trained is None else trained
    return Term(
        "gradients",
        sum(parameter.size_bytes for parameter in trained),
        f"{_each(trained)} gradients",
        _ACCUMULATE_GRAD,
    )


def _gradients_after(segment: RecomputedSegment) -> tuple[Term, ...]:
    size_bytes = segment.gradient_bytes
    return (Term("gradients", size_bytes, f"{size_bytes:,} B gradients of what follows", _ACCUMULATE_GRAD),)


def _further_bytes(parameter: Parameter, accumulated: bool) -> int:
    """Gradients of one parameter that exist at once, before they are added up, beyond the first.

    Of a tied parameter one, and the sum where it is not made in place; in a later micro-batch one more, the
    sum so far.
    """
    return parameter.size_bytes * (parameter.tied + (parameter.tied and parameter.transposed) + accumulated)


def _further_gradients(parameter: Parameter, accumulated: bool) -> tuple[Term, ...]:
    return _temporary(
        _further_bytes(parameter, accumulated),
        "gradients about to be added",
        "torch/csrc/autograd/input_buffer.cpp, accumulate_grad.h",
    )


def _cached_casts(facts: ModelFacts) -> tuple[Term, ...]:
    """Copies of weights that nothing saves (under checkpoints) still stay until autocast ends."""
    return _temporary(
        facts.cast_bytes - facts.weight_copy_bytes,
        "cached copies of weights",
        "aten/src/ATen/autocast_mode.cpp, cached_cast: kept until the outermost region ends",
    )


def _logits(facts: ModelFacts) -> tuple[Term, ...]:
    return _temporary(
        facts.loss_forward_bytes,
        "logits beside their log-probabilities",
        "torch/nn/functional.py, cross_entropy",
    )


def _loss_gradient(facts: ModelFacts) -> tuple[Term, ...]:
    return _temporary(
        facts.loss_backward_bytes,
        "gradients of log-probabilities and logits",
        "aten/src/ATen/native: nll_loss_backward, then _log_softmax_backward_data",
    )


def _temporary(size_bytes: int, words: str, source: str) -> tuple[Term, ...]:
    return (Term("temporaries", size_bytes, f"{size_bytes:,} B {words}", source),) if size_bytes else ()


def _recomputed(segment: RecomputedSegment) -> tuple[Term, ...]:
    source = "torch/utils/checkpoint.py; Chen et al. 2016, section 4.1"
    return (
        Term("activations", segment.kept_bytes, f"{segment.kept_bytes:,} B kept below", source),
        Term("temporaries", segment.recomputed_bytes, f"{segment.recomputed_bytes:,} B recomputed", source),
        Term(
            "temporaries",
            segment.output_gradient_bytes,
            f"{segment.output_gradient_bytes:,} B gradient of the segment's output",
            "the backward pass arrives with it",
        ),
    )


def _loss_scale(workload: Workload, phase: Phase) -> tuple[Term, ...]:
    """GradScaler's scale, made when the first loss is scaled."""
    if workload.precision not in ("amp_fp16", "fp16_master"):
        return ()
    unscaled = phase.step <= 1 and phase.micro_batch <= 1 and phase.name in (MODEL_LOADED, FORWARD)
    if unscaled:
        return ()
    term = Term(
        "optimizer_states",
        _LOSS_SCALE_BYTES,
        f"{_LOSS_SCALE_BYTES} B loss scale",
        "torch/amp/grad_scaler.py",
    )
    return (term,)
