"""Will it fit when several GPUs share the step: one rank of them is run, or reckoned from one GPU's run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from profiler.advice.fit import Fit, Question, fit
from profiler.device import VIRTUAL, Device
from profiler.distributed.lone_rank import LoneRank
from profiler.distributed.store import LoneRankStore
from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU, UNLIMITED_BYTES
from profiler.gpu.device_used import in_total, process_terms
from profiler.gpu.virtual.card_file import nccl_of
from profiler.runs.engine import device_for, why_not_virtual
from profiler.runs.execute import in_process_on, run_in_fresh_process, run_on
from profiler.runs.run_settings import RunSettings
from profiler.trace.run import PhaseMeasurement, Run
from profiler.workload import DDP, FSDP2, ZERO1, ZERO2, ZERO3, Sharding, Workload

RUN, FORMULA = "run", "formula"
_RUN_BY_TORCH = (DDP, ZERO1, FSDP2)
# What each rank has a part of (Rajbhandari et al. 2020, "ZeRO", section 5; FSDP2 is its third stage).
_SHARED = {
    DDP: (),
    ZERO1: ("optimizer_states",),
    ZERO2: ("optimizer_states", "gradients"),
    ZERO3: ("optimizer_states", "gradients", "parameters"),
    FSDP2: ("optimizer_states", "gradients", "parameters"),
}
_WITH_BUCKETS = (DDP, ZERO1)  # of DistributedDataParallel: all gradients again
_LARGEST_BATCH = 1 << 20


@dataclass(frozen=True)
class SharedFit:
    """The answer for one rank; all have the same batch.

    Attributes:
        sharding: how the step is shared, and by how many.
        how: RUN, torch's own code as rank 0 on a virtual GPU; or FORMULA: one GPU's run, less what ZeRO's
            paper takes off, plus DDP's buckets. What a stage gathers at a time and DeepSpeed's buckets are
            not in the formula.
        fit: of rank 0, where it was run.
        run: of rank 0; by formula, of one GPU alone.
        needed_bytes: reserved on a rank at its peak.
        usable_bytes: of its card, less the context and what NCCL takes.
        largest: the largest batch of a rank, 0 where not even 1 fits; None if not asked for, or not known.
        fewest: the least number of GPUs with which this batch of a rank fits; None where even all do not do.
    """

    sharding: Sharding
    how: str
    fit: Fit | None
    run: Run
    needed_bytes: int
    usable_bytes: int
    largest: int | None
    fewest: int | None

    @property
    def fits(self) -> bool:
        """Whether a rank's need has room."""
        return self.needed_bytes <= self.usable_bytes


def shared_fit(workload: Workload, gpu: GPU, sharding: Sharding, question: Question) -> SharedFit:
    """Answer whether a rank of `sharding` fits on its `gpu`, with which batch, and how many ranks it takes.

    Raises ProfilerError for a workload that cannot be run, or whose optimizer ranks cannot share.
    """
    context_bytes = question.context_bytes
    if context_bytes is None:
        nccl = (nccl_of(gpu),) if sharding.ranks > 1 else ()
        context_bytes = in_total((*process_terms(gpu), *nccl)).high_bytes
    usable_bytes = gpu.memory_bytes - context_bytes
    if usable_bytes <= 0:
        raise ProfilerError("the CUDA context and NCCL alone take the whole device; give more memory")
    device = device_for(gpu, question.engine)
    if sharding.kind in _RUN_BY_TORCH and device.kind == VIRTUAL:
        return _by_running(workload, device, sharding, replace(question, context_bytes=context_bytes))
    return _by_formula(workload, device, sharding, question, usable_bytes)


def why_formula(sharding: Sharding) -> str:
    """Why a sharding is reckoned and not run, in words."""
    if sharding.kind not in _RUN_BY_TORCH:
        return f"torch has no {sharding.kind} of its own"
    return f"no virtual GPU can be had: {why_not_virtual() or 'the simulated one was asked for'}"


# --- one rank, run ---------------------------------------------------------------------------------------


def run_rank(
    environment: Mapping[str, str], workload: Workload, device: Device, settings: RunSettings
) -> Run:
    """Train as the rank that the environment says, in this process, which has a virtual GPU."""
    os.environ.update(environment)
    return run_on(workload, device, settings)


def _by_running(workload: Workload, device: Device, sharding: Sharding, question: Question) -> SharedFit:
    gpu = device.gpu
    assert gpu is not None
    # A virtual GPU has its context beside what the allocator may take.
    beside_bytes = in_total(process_terms(gpu)).typical_bytes

    def runs_of(shared: Sharding) -> Callable[[Workload, int], Run]:
        settings = RunSettings(allocator_settings=question.allocator_settings, sharding=shared)

        def run(changed: Workload, memory_bytes: int) -> Run:
            limited = replace(device, gpu=replace(gpu, memory_bytes=memory_bytes + beside_bytes))
            with LoneRankStore() as store:
                rank = LoneRank(0, shared.ranks).environment(store.port)
                words = (rank, changed, limited, settings)
                name = f"{changed}, {shared}"
                return in_process_on(limited, run_rank, *words, settings=settings, name=name)

        return run

    found = fit(workload, gpu, replace(question, with_techniques=False), runs_of(sharding))
    usable_bytes = found.usable_bytes

    def needed_by(ranks: int) -> int:
        if ranks == sharding.ranks:
            return found.taken_bytes
        return runs_of(Sharding(sharding.kind, ranks))(workload, UNLIMITED_BYTES).needed_bytes

    return SharedFit(
        sharding,
        RUN,
        found,
        found.run,
        found.taken_bytes,
        usable_bytes,
        found.largest.fits if found.largest and found.largest.exact else None,
        _least(sharding.ranks, lambda ranks: needed_by(ranks) <= usable_bytes),
    )


# --- one GPU's run, and a formula ------------------------------------------------------------------------


def shared_bytes(phase: PhaseMeasurement, sharding: Sharding) -> int:
    """What the sharding changes of what one GPU alone reserves at the peak of a phase: less than nothing, but
    for buckets.
    """
    peak, ranks = phase.peak, sharding.ranks
    saved = sum(peak.get(category, 0) for category in _SHARED[sharding.kind]) * (ranks - 1) // ranks
    return (peak.get("gradients", 0) if sharding.kind in _WITH_BUCKETS else 0) - saved


def _needed(run: Run, sharding: Sharding) -> int:
    """The most that a rank reserves, phase by phase."""
    return max(
        (phase.peak_reserved_bytes or phase.peak_allocated_bytes) + shared_bytes(phase, sharding)
        for phase in run.phases
    )


def _by_formula(
    workload: Workload, device: Device, sharding: Sharding, question: Question, usable_bytes: int
) -> SharedFit:
    unlimited = replace(device, gpu=replace(device.gpu, memory_bytes=UNLIMITED_BYTES))  # type: ignore[type-var]
    settings = RunSettings(allocator_settings=question.allocator_settings)

    def run(batch: int) -> Run:
        return run_in_fresh_process(replace(workload, batch=batch), unlimited, settings)

    alone = run(workload.batch)

    def fits(batch: int) -> bool:
        return _needed(alone if batch == workload.batch else run(batch), sharding) <= usable_bytes

    return SharedFit(
        sharding,
        FORMULA,
        None,
        alone,
        _needed(alone, sharding),
        usable_bytes,
        _largest(workload.batch, fits) if question.with_largest else None,
        _least(sharding.ranks, lambda ranks: _needed(alone, Sharding(sharding.kind, ranks)) <= usable_bytes),
    )


# --- searches --------------------------------------------------------------------------------------------


def _least(most: int, fits: Callable[[int], bool]) -> int | None:
    """The least number up to `most` that fits, of numbers of which larger ones need no more."""
    if not fits(most):
        return None
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _largest(start: int, fits: Callable[[int], bool]) -> int:
    """The largest batch that fits, of batches of which larger ones need no less; 0 for none."""
    low, high = (start, 2 * start) if fits(start) else (0, start)
    while low >= start and high <= _LARGEST_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low
