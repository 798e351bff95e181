"""Will it fit? A workload against a GPU: verdict, largest batch, and what would help; all of it is run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace

from profiler.advice.largest_batch import LargestBatch, largest_batch
from profiler.advice.techniques import Technique, applicable, pairs
from profiler.device import Device
from profiler.errors import ProfilerError
from profiler.gpu.allocator import AllocatorSettings
from profiler.gpu.cards import GPU, UNLIMITED_BYTES
from profiler.gpu.device_used import in_total, process_terms
from profiler.runs.engine import device_for
from profiler.runs.execute import run_in_fresh_process
from profiler.runs.processes import threads_side_by_side
from profiler.runs.run_settings import RunSettings
from profiler.trace.run import Run
from profiler.workload import Workload

FITS, TIGHT, DOES_NOT_FIT = "fits", "tight", "does not fit"
TIGHT_FROM = 0.90  # of the device

NOT_INCLUDED = (
    "NCCL buffers of multi-GPU training",
    "other processes on the GPU",
    "torch.compile, custom CUDA kernels",
)

RunWorkload = Callable[[Workload, int], Run]
Choice = tuple[tuple[Technique, ...], Workload]


@dataclass(frozen=True)
class TechniqueResult:
    """What one technique, or two together, come to; `run` is None where they could not, for the `reason`."""

    techniques: tuple[Technique, ...]
    workload: Workload
    run: Run | None
    saved_reserved_bytes: int
    reason: str

    @property
    def name(self) -> str:
        """In words."""
        return " + ".join(technique.name for technique in self.techniques)

    @property
    def cost(self) -> str:
        """Of all of them."""
        return "; ".join(technique.cost for technique in self.techniques)

    def fits_in(self, usable_bytes: int) -> bool:
        """Whether that much is enough."""
        return self.run is not None and self.run.needed_bytes <= usable_bytes


@dataclass(frozen=True)
class Fit:
    """The answer.

    Attributes:
        workload: what would run.
        gpu: the device.
        context_bytes: set aside for the CUDA context, kernels and handles of libraries.
        run: the workload with memory without limit: what it takes.
        limited: the workload with the memory there is, where it takes more than that; it may still fit when
            the allocator returns cached memory.
        largest: the largest batch, None if not asked for.
        techniques: by what they save, the most first; pairs too where nothing makes it fit alone.
        simulations: how many the answer took.
    """

    workload: Workload
    gpu: GPU
    context_bytes: int
    run: Run
    limited: Run | None
    largest: LargestBatch | None
    techniques: tuple[TechniqueResult, ...]
    simulations: int

    @property
    def usable_bytes(self) -> int:
        """What the allocator may take: the device without the CUDA context."""
        return self.gpu.memory_bytes - self.context_bytes

    @property
    def taken_bytes(self) -> int:
        """Reserved at the peak, under the limit where the run was limited and fits."""
        run = self.limited if self.limited is not None and self.limited.fits else self.run
        return run.needed_bytes

    @property
    def verdict(self) -> str:
        """FITS, TIGHT (from TIGHT_FROM of the device, or only by returning cached memory), DOES_NOT_FIT."""
        if self.limited is not None:
            return TIGHT if self.limited.fits else DOES_NOT_FIT
        tight = self.taken_bytes + self.context_bytes >= TIGHT_FROM * self.gpu.memory_bytes
        return TIGHT if tight else FITS

    @property
    def headroom_bytes(self) -> int:
        """What is left of the usable memory; negative where it does not fit."""
        return self.usable_bytes - self.taken_bytes


@dataclass(frozen=True)
class Question:
    """Which parts to answer, how much to set aside, the allocator's settings as PYTORCH_ALLOC_CONF has them,
    and the engine (profiler.device.ENGINES; None: the best that there can be).

    context_bytes: what the allocator never gets; None: the most that processes on the card were seen to take
        (profiler.gpu.device_used.process_terms), so that what fits does so with most drivers and libraries.
    """

    context_bytes: int | None = None
    allocator_settings: str = ""
    with_largest: bool = True
    with_techniques: bool = True
    engine: str | None = None


def fit(
    workload: Workload,
    gpu: GPU,
    question: Question | None = None,
    run: RunWorkload | None = None,
) -> Fit:
    """Answer whether `workload` fits on `gpu`.

    Args:
        workload: what to train.
        gpu: where.
        question: how much of the answer to give.
        run: how to run a workload under a memory limit; in fresh processes unless given.

    Raises:
        ProfilerError: the workload cannot be run.
    """
    question = question or Question()
    run = run or _runs_on(device_for(gpu, question.engine), question.allocator_settings)
    context_bytes = question.context_bytes
    if context_bytes is None:
        context_bytes = in_total(process_terms(gpu)).high_bytes
    usable_bytes = gpu.memory_bytes - context_bytes
    if usable_bytes <= 0:
        raise ProfilerError(
            "the CUDA context alone takes the whole device; give more memory or --context 0MiB"
        )
    first = run(workload, UNLIMITED_BYTES)
    limited = None
    if first.needed_bytes > usable_bytes:
        limited = run(workload, usable_bytes)
    does_not_fit = limited is not None and not limited.fits
    with threads_side_by_side() as background:

        def tried(choices: Iterable[Choice]) -> list[Future[TechniqueResult]]:
            return [background.submit(_tried, *choice, first, run) for choice in choices]

        alone = applicable(workload) if question.with_techniques else []
        singles = tried(((technique,), changed) for technique, changed in alone)
        largest = None
        if question.with_largest:
            largest = largest_batch(
                _at_batch(workload, usable_bytes, run),
                usable_bytes,
                first,
                AllocatorSettings.parse(question.allocator_settings),
            )
        results = [single.result() for single in singles]
        if does_not_fit and results and not any(result.fits_in(usable_bytes) for result in results):
            results += [pair.result() for pair in tried(pairs(workload))]
    return Fit(
        workload=workload,
        gpu=gpu,
        context_bytes=context_bytes,
        run=first,
        limited=limited,
        largest=largest,
        techniques=tuple(sorted(results, key=lambda result: -result.saved_reserved_bytes)),
        simulations=1 + (limited is not None) + (largest.simulations if largest else 0) + len(results),
    )


def _runs_on(device: Device, allocator_settings: str) -> RunWorkload:
    """Runs in fresh processes, each on a GPU of that kind whose allocator may take so much memory."""
    settings, gpu = RunSettings(allocator_settings=allocator_settings), device.gpu
    assert gpu is not None
    # The CUDA context lies beside what the allocator may take.
    beside_bytes = in_total(process_terms(gpu)).typical_bytes

    def run(workload: Workload, memory_bytes: int) -> Run:
        limited = replace(gpu, memory_bytes=memory_bytes + beside_bytes)
        return run_in_fresh_process(workload, replace(device, gpu=limited), settings)

    return run


def _at_batch(workload: Workload, usable_bytes: int, run: RunWorkload) -> Callable[[int, bool], Run]:
    return lambda batch, limited: run(
        replace(workload, batch=batch), usable_bytes if limited else UNLIMITED_BYTES
    )


def _tried(
    techniques: tuple[Technique, ...], changed: Workload, first: Run, run: RunWorkload
) -> TechniqueResult:
    try:
        then = run(changed, UNLIMITED_BYTES)
    except ProfilerError as error:
        return TechniqueResult(techniques, changed, None, 0, str(error))
    return TechniqueResult(techniques, changed, then, first.needed_bytes - then.needed_bytes, "")
