"""The textbook's formula: weights + gradients + activations + the optimizer's rule of thumb a parameter.

The rule is 0 bytes for SGD, 4 with momentum, 8 for Adam, so 4 × (k × parameters + activations) in fp32.
Nothing is ever given back, so the level only rises and stays on the second step.
"""

from __future__ import annotations

from profiler.formula.per_phase import gradients_term, parameters_term
from profiler.formula.terms import ModelFacts, PhaseTerms, Term
from profiler.trace.phase import BACKWARD, FORWARD, MODEL_LOADED, Phase, phases
from profiler.workload import EIGHT_BIT_OPTIMIZERS, Workload

# The textbook's bytes of optimizer state a parameter; Adafactor's rows and columns count as nothing.
_TEXTBOOK_STATE_BYTES = {"sgd": 0, "momentum": 4, "adam": 8, "adamw": 8, "adafactor": 0}
_TEXTBOOK_STATE_BYTES |= {"adafactor_transformers": 0, "adafactor_transformers_momentum": 4}
_TEXTBOOK_STATE_BYTES |= dict.fromkeys(EIGHT_BIT_OPTIMIZERS, 2)


def textbook_terms(workload: Workload, facts: ModelFacts) -> list[PhaseTerms]:
    """Weights, activations, gradients and states: each phase adds its term and nothing is given back."""
    elements = sum(parameter.elements for parameter in facts.trained)
    kept_bytes = facts.saved_bytes + facts.input_bytes
    activations = Term(
        "activations",
        kept_bytes,
        f"4 B × {kept_bytes // 4:,} activations",
        "each layer's input, kept from its forward pass on",
    )
    width = _TEXTBOOK_STATE_BYTES[workload.optimizer]
    master = 4 if workload.precision == "fp16_master" else 0
    states = Term(
        "optimizer_states",
        (width + master) * elements,
        f"{width + master} B × {elements:,} parameters",
        "the optimizer's statistics of each gradient, and its copy of the weights if it has one",
    )
    everything = (parameters_term(facts), activations, gradients_term(facts), states)
    first_step = {MODEL_LOADED: everything[:1], FORWARD: everything[:2], BACKWARD: everything[:3]}

    def level(phase: Phase) -> tuple[Term, ...]:
        return first_step.get(phase.name, everything) if phase.step <= 1 else everything

    return [PhaseTerms(phase, level(phase), level(phase)) for phase in phases(workload)]
