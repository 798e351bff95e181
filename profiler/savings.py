"""What each memory technique, and each pair of them, would take off a workload's peak, by formula."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from profiler.formula import Prediction, peak, predict
from profiler.model_facts import ModelFacts, count
from profiler.techniques import Technique, applicable
from profiler.workload import Workload


@dataclass(frozen=True)
class Saving:
    """The predicted peak with some techniques: `saved_bytes` is negative where they need more."""

    techniques: tuple[Technique, ...]
    saved_bytes: int
    peak: Prediction


def savings(workload: Workload, device_type: str) -> tuple[Prediction, list[Saving]]:
    """The workload's predicted peak, and what each technique and each pair saves of it, best first.

    Nothing is run: see profiler.model_facts.
    """
    facts: dict[Workload, ModelFacts] = {}

    def predicted_peak(workload: Workload) -> Prediction:
        counted = replace(workload, optimizer="sgd", optimizer_implementation="default")  # no matter to facts
        if counted not in facts:
            facts[counted] = count(counted)
        return peak(predict(workload, facts[counted], device_type))

    before = predicted_peak(workload)
    found = []
    for chosen, changed in _choices(workload):
        after = predicted_peak(changed)
        found.append(Saving(chosen, before.peak_bytes - after.peak_bytes, after))
    return before, sorted(found, key=lambda saving: (-saving.saved_bytes, len(saving.techniques)))


def _choices(workload: Workload) -> Iterator[tuple[tuple[Technique, ...], Workload]]:
    """Each technique, and each pair that gives the same workload in either order."""
    singles = applicable(workload)
    for technique, changed in singles:
        yield (technique,), changed
    for (first, with_first), (second, with_second) in combinations(singles, 2):
        both = second.apply(with_first)
        if both is not None and both == first.apply(with_second):
            yield (first, second), both
