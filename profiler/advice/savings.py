"""What each memory technique, and each pair of them, would take off a workload's peak, by formula."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from profiler.advice.techniques import Technique, applicable, pairs
from profiler.errors import ProfilerError
from profiler.formula.per_phase import phase_terms
from profiler.formula.terms import ModelFacts, PhaseTerms, highest_phase
from profiler.gpu.cards import GPU
from profiler.runs.processes import each_in_fresh_process
from profiler.workload import Workload


@dataclass(frozen=True)
class Saving:
    """A workload with techniques and its predicted peak; what is saved is negative where it needs more."""

    techniques: tuple[Technique, ...]
    workload: Workload
    saved_allocated_bytes: int
    peak: PhaseTerms


def savings(
    workload: Workload, gpu: GPU, on_count: Callable[[int, int], None] = lambda counted, total: None
) -> tuple[PhaseTerms, list[Saving]]:
    """The workload's predicted peak on `gpu`, and what each technique and each pair saves of it, best first.

    Forward passes are counted in other processes, see profiler.formula.facts; `on_count` is told how
    many of how many are. Raises ProfilerError for a model that there is not, or a length that it needs.
    """
    choices: list[tuple[tuple[Technique, ...], Workload]] = [
        *(((technique,), changed) for technique, changed in applicable(workload)),
        *pairs(workload),
    ]
    facts = _facts([workload, *(changed for _, changed in choices)], gpu, on_count)

    def predicted_peak(workload: Workload) -> PhaseTerms:
        counted = facts[_counted(workload)]
        if isinstance(counted, ProfilerError):
            raise counted
        return highest_phase(phase_terms(workload, counted, "cuda"))

    before = predicted_peak(workload)
    found = []
    for chosen, changed in choices:
        with suppress(ProfilerError):  # such as checkpoints where there is no list of layers
            after = predicted_peak(changed)
            found.append(Saving(chosen, changed, before.peak_bytes - after.peak_bytes, after))
    return before, sorted(found, key=lambda saving: (-saving.saved_allocated_bytes, len(saving.techniques)))


def _counted(workload: Workload) -> Workload:
    """The workload whose forward pass is the same, whatever the optimizer and the micro-batches."""
    return replace(workload, optimizer="sgd", optimizer_implementation="default", micro_batches=1)


def _facts(
    workloads: list[Workload], gpu: GPU, on_count: Callable[[int, int], None]
) -> dict[Workload, ModelFacts | ProfilerError]:
    needed = list(dict.fromkeys(_counted(workload) for workload in workloads))
    found = {}
    counted = each_in_fresh_process(_count, [(workload, gpu) for workload in needed], "counting")
    for workload, facts in zip(needed, counted, strict=True):
        found[workload] = facts
        on_count(len(found), len(needed))
    return found


def _count(workload: Workload, gpu: GPU) -> ModelFacts | ProfilerError:
    from profiler.formula.facts import facts_on
    from profiler.training.user_code import errors_in_one_line

    try:
        with errors_in_one_line(workload.model):
            return facts_on(gpu, workload)
    except ProfilerError as error:
        return error
