"""The formula of a training step: named terms, each with its source, that add up to the bytes of a phase.

It is what torch really keeps at each boundary. Activations die during the backward pass, so they and the full
set of gradients never meet; the step adds the optimizer's temporaries.

`phase_terms` gives for each phase the level at its end and a lower bound of its peak: the largest of a few
moments (the start of the backward pass, each checkpointed segment when it has been recomputed, the end). The
gradients of activations inside a layer are not in the formula: the simulation has them.
"""

from __future__ import annotations

from collections.abc import Iterator

from profiler.formula.optimizer_states import initial_terms, state_terms
from profiler.formula.optimizer_temporaries import step_temporaries
from profiler.formula.terms import ModelFacts, PhaseTerms, RecomputedSegment, Term, total_bytes
from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, Phase, phases
from profiler.workload import Workload

_AFTER_SCALING = Phase(1, BACKWARD)
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
        scaled = _loss_scale(workload, phase)
        resting = weights + initial + (states if phase.step > 1 else scaled)
        accumulated = gradients if phase.micro_batch > 1 else ()
        kept = resting + accumulated + inputs + activations
        backpropagated = resting + gradients + inputs + loss
        stepped = weights + initial + states + gradients + inputs + loss
        match phase.name:
            case "model_loaded":
                return weights, weights
            case "forward":
                return kept, kept + _cached_casts(facts) + _logits(facts)
            case "backward":
                moments = [kept + _loss_gradient(facts), backpropagated + _incoming(facts, bool(accumulated))]
                for segment in facts.segments:
                    held = gradients if accumulated else (gradients_term(facts, segment.gradient_bytes),)
                    moments.append(resting + held + inputs + loss + _recomputed(segment))
                return backpropagated, max(moments, key=total_bytes)
            case "optimizer_step":
                first_step = phase.step == 1
                return stepped, stepped + tuple(
                    step_temporaries(workload, facts.parameters, device_type, first_step)
                )
            case _:
                return weights + initial + states, stepped

    return [PhaseTerms(phase, *terms(phase)) for phase in phases(workload)]


def _width(facts: ModelFacts) -> int:
    return facts.parameters[0].element_bytes if facts.parameters else 4


def parameters_term(facts: ModelFacts) -> Term:
    width = _width(facts)
    return Term(
        "parameters",
        facts.total_parameter_bytes,
        f"{width} B × {facts.total_parameter_bytes // width:,} parameters",
        "torch.nn.Module.parameters, tied ones once",
    )


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


def gradients_term(facts: ModelFacts, size_bytes: int | None = None) -> Term:
    """All gradients, or those of some parameters."""
    size_bytes, width = facts.total_parameter_bytes if size_bytes is None else size_bytes, _width(facts)
    return Term(
        "gradients",
        size_bytes,
        f"{width} B × {size_bytes // width:,} gradients",
        "one .grad a parameter, of its shape and dtype (torch/csrc/autograd/functions/accumulate_grad.h)",
    )


def _incoming(facts: ModelFacts, accumulated: bool) -> tuple[Term, ...]:
    """Gradients of one parameter that exist at once, before they are added up.

    Of a tied parameter two, and their sum where it is not made in place; in a later micro-batch one more,
    the sum so far.
    """
    extra = [p.size_bytes * (p.tied + (p.tied and p.transposed) + accumulated) for p in facts.parameters]
    return _temporary(
        max(extra, default=0),
        "gradients about to be added",
        "torch/csrc/autograd/input_buffer.cpp, accumulate_grad.h; the largest parameter's",
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
