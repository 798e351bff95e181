"""Predicting a training step by formula: named terms, each with its source, that add up to a phase.

Two formulas, both in bytes:

- *textbook*: 4 × (k × parameters + activations) in fp32, k = 2 for SGD (weights and gradients), 3 with
  momentum, 4 for Adam. Nothing is ever given back, so the level only rises and stays on the second step.
- *per phase*: what torch really keeps at each boundary. Activations die during the backward pass, so they
  and the full set of gradients never meet; the step adds the optimizer's temporaries.

`predict` gives for each phase the level at its end and a lower bound of its peak. The gradients of
activations, alive only inside the backward pass, are not in the formula: the simulation has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from profiler.model_facts import ModelFacts
from profiler.training_step import BACKWARD, FORWARD, MODEL_LOADED, Phase, phases
from profiler.workload import Workload

# Tensors of a parameter's size that the optimizer keeps for it: torch/optim/{sgd,adam}.py; Kingma and Ba
# 2014 (Adam's two moments).
STATES_PER_PARAMETER = {"sgd": 0, "momentum": 1, "adam": 2}

SCALAR_BYTES = 4


@dataclass(frozen=True)
class Term:
    """One summand: `category` as in profiler.ledger, the bytes, how they come about, and who says so."""

    category: str
    size_bytes: int
    expression: str
    source: str


@dataclass(frozen=True)
class Prediction:
    """What a formula says of one phase: the terms alive at its end, and those at its peak."""

    phase: Phase
    end: tuple[Term, ...]
    peak: tuple[Term, ...]

    @property
    def end_bytes(self) -> int:
        """Allocated when the phase ends."""
        return sum(term.size_bytes for term in self.end)

    @property
    def peak_bytes(self) -> int:
        """Allocated at the peak of the phase."""
        return sum(term.size_bytes for term in self.peak)

    def equation(self) -> str:
        """The level at the end of the phase, written out with its numbers."""
        terms = " + ".join(f"{term.expression} [{term.category}]" for term in self.end)
        return f"{self.phase}: {terms} = {self.end_bytes:,} B"


def predict(workload: Workload, facts: ModelFacts, device_type: str) -> list[Prediction]:
    """The per-phase formula for each phase of the workload's steps.

    `device_type` ("cpu" or "cuda") decides the optimizer implementation that torch picks by itself: the
    for-loop on the CPU, foreach on CUDA (torch/optim/optimizer.py, _default_to_fused_or_foreach).
    """
    weights = (_parameters(facts), *_buffers(facts))
    states = tuple(_states(workload, facts, device_type))
    temporaries = tuple(_step_temporaries(workload, facts, device_type))
    gradients = (_gradients(facts),)
    inputs, activations, loss = (_inputs(facts),), (_activations(facts),), (_loss(facts),)

    def terms(phase: Phase) -> tuple[tuple[Term, ...], tuple[Term, ...]]:
        """What is alive at the end and at the peak of a phase."""
        resting = weights + (states if phase.step > 1 else ())
        kept = resting + (gradients if phase.micro_batch > 1 else ()) + inputs + activations
        backpropagated = resting + gradients + inputs + loss
        stepped = weights + states + gradients + inputs + loss
        match phase.name:
            case "model_loaded":
                return weights, weights
            case "forward":
                return kept, kept
            case "backward":
                return backpropagated, max(kept, backpropagated, key=_total)
            case "optimizer_step":
                return stepped, stepped + temporaries
            case _:
                return weights + states, stepped

    return [Prediction(phase, *terms(phase)) for phase in phases(workload)]


def predict_textbook(workload: Workload, facts: ModelFacts) -> list[Prediction]:
    """4 bytes × (k × parameters + activations): each phase adds its term and nothing is given back."""
    weights = _parameters(facts)
    kept_bytes = facts.saved_bytes + facts.input_bytes
    activations = Term(
        "activations",
        kept_bytes,
        f"4 B × {kept_bytes // 4:,} activations",
        "each layer's input, kept from its forward pass on",
    )
    count = STATES_PER_PARAMETER[workload.optimizer]
    states = Term(
        "optimizer_states",
        count * facts.total_parameter_bytes,
        f"{count} × 4 B × {facts.total_parameter_bytes // 4:,} parameters",
        "the optimizer's statistics of each gradient",
    )
    everything = (weights, activations, _gradients(facts), states)
    first_step = {MODEL_LOADED: everything[:1], FORWARD: everything[:2], BACKWARD: everything[:3]}

    def level(phase: Phase) -> tuple[Term, ...]:
        return first_step.get(phase.name, everything) if phase.step <= 1 else everything

    return [Prediction(phase, level(phase), level(phase)) for phase in phases(workload)]


def _total(terms: tuple[Term, ...]) -> int:
    return sum(term.size_bytes for term in terms)


def _parameters(facts: ModelFacts) -> Term:
    return Term(
        "parameters",
        facts.total_parameter_bytes,
        f"4 B × {facts.total_parameter_bytes // 4:,} parameters",
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


def _activations(facts: ModelFacts) -> Term:
    total_bytes = facts.saved_bytes + facts.loss_bytes
    return Term(
        "activations",
        total_bytes,
        f"{facts.saved_bytes:,} B saved + {facts.loss_bytes:,} B loss",
        "tensors saved by the autograd graph's nodes (torch/csrc/autograd/saved_variable.h)",
    )


def _loss(facts: ModelFacts) -> Term:
    return Term("activations", facts.loss_bytes, f"{facts.loss_bytes:,} B loss", "held by the training loop")


def _gradients(facts: ModelFacts) -> Term:
    return Term(
        "gradients",
        facts.total_parameter_bytes,
        f"4 B × {facts.total_parameter_bytes // 4:,} gradients",
        "one .grad a parameter, of its shape and dtype (torch/csrc/autograd/functions/accumulate_grad.h)",
    )


def _states(workload: Workload, facts: ModelFacts, device_type: str) -> Iterator[Term]:
    count = STATES_PER_PARAMETER[workload.optimizer]
    if count:
        yield Term(
            "optimizer_states",
            count * facts.total_parameter_bytes,
            f"{count} × 4 B × {facts.total_parameter_bytes // 4:,} states",
            "torch/optim/adam.py (exp_avg, exp_avg_sq), torch/optim/sgd.py (momentum_buffer)",
        )
    if workload.optimizer == "adam" and device_type == "cpu":
        tensors = len(facts.parameter_bytes)
        yield Term(
            "optimizer_states",
            SCALAR_BYTES * tensors,
            f"{SCALAR_BYTES} B × {tensors:,} step counters",
            "torch/optim/adam.py: `step`, in host memory unless fused or capturable",
        )


def _step_temporaries(workload: Workload, facts: ModelFacts, device_type: str) -> Iterator[Term]:
    if workload.optimizer != "adam":
        return
    if device_type == "cuda":
        yield Term(
            "temporaries",
            facts.total_parameter_bytes,
            f"4 B × {facts.total_parameter_bytes // 4:,} (foreach denominators)",
            "torch/optim/adam.py, _multi_tensor_adam: exp_avg_sq_sqrt, all parameters at once",
        )
        return
    # `denom` of the parameter before lives until it is rebound, while sqrt and its quotient are made.
    largest = max(before + 2 * size for before, size in pairwise((0, *facts.parameter_bytes)))
    yield Term(
        "temporaries",
        largest,
        f"{largest:,} B (for-loop denominators)",
        "torch/optim/adam.py, _single_tensor_adam: denom = (exp_avg_sq.sqrt() / bias_correction2_sqrt)",
    )
