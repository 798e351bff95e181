"""Ways to need less memory, as data: which fields of a workload each one changes, and what it costs.

A technique is offered where the workload has the fields it changes and is not using it yet. New fields of
Workload join by a line in TECHNIQUES.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from profiler.errors import ProfilerError
from profiler.workload import Workload

Changes = Mapping[str, Any] | Callable[[Workload], Mapping[str, Any]]


@dataclass(frozen=True)
class Technique:
    """One way to need less memory.

    Attributes:
        name: in words, as offered.
        changes: the workload's fields and their new values, or a function of the workload that gives them.
        instead_of: field -> the values that it may have now; the technique is not offered at others.
        cost: what it costs.
    """

    name: str
    changes: Changes
    instead_of: Mapping[str, tuple[Any, ...]]
    cost: str

    def apply(self, workload: Workload) -> Workload | None:
        """The workload with the technique; None where it does not apply."""
        fields = {field.name for field in dataclasses.fields(workload)}
        if not self.instead_of.keys() <= fields:
            return None
        if any(getattr(workload, name) not in values for name, values in self.instead_of.items()):
            return None
        changes = self.changes(workload) if callable(self.changes) else self.changes
        if not changes or not changes.keys() <= fields:
            return None
        try:
            return dataclasses.replace(workload, **changes)
        except ProfilerError:  # this version of Workload has the field but not the value
            return None


def _half_micro_batch(workload: Workload) -> Mapping[str, Any]:
    if workload.batch % 2:
        return {}
    return {"batch": workload.batch // 2, "micro_batches": workload.micro_batches * 2}


_ADAM = {"optimizer": ("adam", "adamw")}
_FULL = {"precision": ("fp32",)}
_PLAIN = {"checkpointing": ("none",)}

TECHNIQUES = (
    Technique(
        "checkpoint every layer",
        {"checkpointing": "every_layer"},
        _PLAIN,
        "about one more forward pass of compute",
    ),
    Technique(
        "checkpoint stretches of about sqrt(layers)",
        {"checkpointing": "sqrt"},
        _PLAIN,
        "about one more forward pass of compute",
    ),
    Technique(
        "checkpoint selectively, keep matrix products",
        {"checkpointing": "selective"},
        _PLAIN,
        "the cheap part of a forward pass again",
    ),
    Technique(
        "autocast to bfloat16",
        {"precision": "amp_bf16"},
        _FULL,
        "16-bit matrix products; weights stay fp32",
    ),
    Technique(
        "everything in bfloat16",
        {"precision": "bf16"},
        _FULL,
        "weights and optimizer states in 16 bits: training may suffer",
    ),
    Technique(
        "8-bit AdamW as in transformers' Trainer",
        {"optimizer": "adamw8bit"},
        _ADAM,
        "quantized optimizer states, those of embeddings in 32 bits",
    ),
    Technique(
        "8-bit AdamW of plain bitsandbytes",
        {"optimizer": "adamw8bit_plain"},
        _ADAM,
        "quantized optimizer states, those of embeddings too",
    ),
    Technique("Adafactor", {"optimizer": "adafactor"}, _ADAM, "another optimizer: tune again"),
    Technique("SGD with momentum", {"optimizer": "momentum"}, _ADAM, "another optimizer: tune again"),
    Technique(
        "fused optimizer",
        {"optimizer_implementation": "fused"},
        {
            "optimizer": ("adam", "adamw", "sgd", "momentum"),
            "optimizer_implementation": ("default", "foreach"),
        },
        "none known; the same update in one kernel",
    ),
    Technique(
        "half the micro-batch, twice as many",
        _half_micro_batch,
        {},
        "less work at once; the step's batch is the same",
    ),
    Technique(
        "fused attention",
        {"attention": "sdpa"},
        {"attention": ("eager",)},
        "none; the score matrix is never stored",
    ),
)


def pairs(workload: Workload) -> list[tuple[tuple[Technique, Technique], Workload]]:
    """Each two that `workload` can still take on and that give the same workload in either order, with it."""
    found = []
    for (first, with_first), (second, with_second) in combinations(applicable(workload), 2):
        both = second.apply(with_first)
        if both is not None and both == first.apply(with_second):
            found.append(((first, second), both))
    return found


def applicable(workload: Workload) -> list[tuple[Technique, Workload]]:
    """The techniques that `workload` can still take on, each with the workload that has it."""
    applied = ((technique, technique.apply(workload)) for technique in TECHNIQUES)
    return [(technique, changed) for technique, changed in applied if changed is not None]
