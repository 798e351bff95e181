"""What each memory technique, and each pair of them, would take off a workload's predicted peak."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from profiler.formula import Prediction, peak, predict
from profiler.model_facts import ModelFacts, count
from profiler.workload import Workload


@dataclass(frozen=True)
class Technique:
    """A change of a workload's fields, where it acts, and what it costs."""

    name: str
    changes: dict[str, Any]
    acts_on: str
    cost: str


@dataclass(frozen=True)
class Saving:
    """The predicted peak with some techniques: `saved_bytes` is negative where they need more."""

    techniques: tuple[Technique, ...]
    saved_bytes: int
    peak: Prediction


def techniques(workload: Workload) -> list[Technique]:
    """Those that `workload` does not use yet."""
    known = [
        Technique("fused optimizer", {"optimizer_implementation": "fused"}, "step temporaries", "none"),
        Technique("8-bit AdamW", {"optimizer": "adamw8bit"}, "optimizer states", "quantized states"),
        Technique("Adafactor", {"optimizer": "adafactor"}, "optimizer states", "no first moment"),
        Technique("autocast bf16", {"precision": "amp_bf16"}, "activations", "16-bit rounding"),
        Technique("pure bf16", {"precision": "bf16"}, "everything", "small updates are lost"),
        Technique(
            "checkpoint every layer", {"checkpointing": "every_layer"}, "activations", "a forward pass more"
        ),
        Technique("checkpoint √L", {"checkpointing": "sqrt"}, "activations", "a forward pass more"),
        Technique(
            "selective checkpoint", {"checkpointing": "selective"}, "activations", "part of a forward pass"
        ),
    ]
    if workload.batch > 1:
        changes = {"batch": 1, "micro_batches": workload.batch * workload.micro_batches}
        known.append(Technique("accumulation", changes, "activations", "smaller kernels"))
    if workload.optimizer not in ("adam", "adamw", "momentum"):
        known = [t for t in known if t.acts_on not in ("optimizer states", "step temporaries")]
    return [t for t in known if any(getattr(workload, name) != value for name, value in t.changes.items())]


def savings(workload: Workload, device_type: str) -> tuple[Prediction, list[Saving]]:
    """The workload's predicted peak, and what each technique and each pair saves of it, best first.

    Techniques that change the same field, and an implementation together with another optimizer, make no
    pair. Nothing is run: see profiler.model_facts.
    """
    facts: dict[Workload, ModelFacts] = {}

    def predicted_peak(workload: Workload) -> Prediction:
        counted = replace(workload, optimizer="sgd", optimizer_implementation="default")  # no matter to facts
        if counted not in facts:
            facts[counted] = count(counted)
        return peak(predict(workload, facts[counted], device_type))

    before = predicted_peak(workload)
    found = []
    known = techniques(workload)
    for chosen in [(t,) for t in known] + list(combinations(known, 2)):
        names = [name for technique in chosen for name in technique.changes]
        if len(set(names)) < len(names) or {"optimizer", "optimizer_implementation"} <= set(names):
            continue
        changes = {name: value for technique in chosen for name, value in technique.changes.items()}
        after = predicted_peak(replace(workload, **changes))
        found.append(Saving(chosen, before.peak_bytes - after.peak_bytes, after))
    return before, sorted(found, key=lambda saving: (-saving.saved_bytes, len(saving.techniques)))
