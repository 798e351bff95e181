"""Every byte of a PyTorch training step: measured, predicted, and explained.

    import profiler                                         # imports no torch

    work = profiler.Workload("gpt2", batch=8, length=512)
    run = profiler.simulate(work, "A100-40GB")              # the real step, on a GPU that is not there
    print(run.peak().allocated_bytes)

Bytes are integers in names that end with `_bytes`; "allocated" is what tensors take of PyTorch's allocator,
"reserved" what the allocator took of the device. Whatever a user can mend is a ProfilerError of one line.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from profiler.errors import ProfilerError
from profiler.gpu.cards import GPU
from profiler.version import __version__
from profiler.workload import Workload

if TYPE_CHECKING:
    import torch

    from profiler.advice.fit import Fit
    from profiler.formula.terms import PhaseTerms
    from profiler.recording.loop import Recording
    from profiler.trace.difference import Difference
    from profiler.trace.run import Run

__all__ = [
    "GPU",
    "ProfilerError",
    "Workload",
    "__version__",
    "difference",
    "find_gpu",
    "fit",
    "load",
    "measure",
    "record",
    "simulate",
    "simulated_gpu",
    "terms",
]


def find_gpu(name: str) -> GPU:
    """The GPU of a name, such as "H100" or "rtx 4090", or one with the memory of a size, such as "24 GiB".

    >>> find_gpu("A100 40GB").memory_bytes
    42298834944
    >>> find_gpu("24GB").memory_bytes, find_gpu("24GiB").memory_bytes
    (24000000000, 25769803776)

    Raises ProfilerError that names the GPUs there are.
    """
    from profiler.gpu import cards

    return cards.find_gpu(name)


def simulate(
    workload: Workload, gpu: GPU | str, allocator_settings: str = "", engine: str | None = None
) -> Run:
    """Train the workload on a GPU that need not be there, in a process of its own: the real step.

    >>> run = simulate(Workload("mlp-tiny", batch=32), "A100-40GB")
    >>> [str(phase.account.phase) for phase in run.phases][:3]
    ['model_loaded', 'step 1 forward', 'step 1 backward']
    >>> 4 * (64 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10)  # parameters of 4 bytes, before rounding
    340008
    >>> run.phases[0].account.end["parameters"]
    340008

    Args:
        workload: what to train; its model may be a function of your own, as "train.py:make_model".
        gpu: where, see `find_gpu`; a run that does not fit has its `out_of_memory`.
        allocator_settings: as PYTORCH_ALLOC_CONF has them.
        engine: what stands for the GPU: "virtual" (the CUDA build of torch, whose kernels do not run) or
            "simulated"; None: virtual where the machine allows it. The run's `device.kind` says which it was,
            `rests_on` what was assumed.

    Raises:
        ProfilerError: the model cannot be built or run; names the line of your own code. Also where the
            engine that is asked for cannot be had.
    """
    from profiler.gpu.allocator.settings import AllocatorSettings
    from profiler.runs.engine import device_for
    from profiler.runs.execute import run_in_fresh_process
    from profiler.runs.run_settings import RunSettings

    AllocatorSettings.parse(allocator_settings)  # wrong ones are said before anything runs
    settings = RunSettings(allocator_settings=allocator_settings)
    return run_in_fresh_process(workload, device_for(_gpu(gpu), engine), settings)


def measure(workload: Workload, device: str = "cuda", allocator_settings: str = "") -> Run:
    """Train the workload on the device that is here, "cuda" or "cpu", in a process of its own.

    >>> run = measure(Workload("mlp-tiny", batch=32), "cpu")
    >>> run.peak_allocated_bytes > 4 * 340_008, run.peak_reserved_bytes  # weights, gradients, two states
    (True, None)

    Returns the run; on the CPU nothing is reserved, and that is None.
    Raises ProfilerError for a model that cannot be built, or a device that is not there.
    """
    from profiler.device import CPU, CUDA, Device
    from profiler.runs.execute import run_in_fresh_process
    from profiler.runs.provenance import check_device
    from profiler.runs.run_settings import RunSettings

    if device not in (CPU, CUDA):
        raise ProfilerError(f"device is 'cuda' or 'cpu', not {device!r}; see simulate for others")
    check_device(Device(device))
    settings = RunSettings(allocator_settings=allocator_settings)
    return run_in_fresh_process(workload, Device(device), settings)


def load(path: str | Path) -> Run:
    """A run from a file: `Run.save` (`profiler report --save`), or a CUDA memory snapshot.

    >>> import tempfile
    >>> run, path = simulate(Workload("mlp-tiny", batch=32), "T4"), Path(tempfile.mkdtemp()) / "run.parquet"
    >>> run.save(path)
    >>> load(path).peak_reserved_bytes == run.peak_reserved_bytes
    True

    >>> load("nowhere.pickle")
    Traceback (most recent call last):
    ...
    profiler.errors.ProfilerError: nowhere.pickle: No such file or directory

    Snapshots are those of torch.cuda.memory._dump_snapshot; no code of theirs is run. Raises ProfilerError
    for anything else.
    """
    from profiler.trace import load as loading

    return loading.load(Path(path))


def record(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer | None = None
) -> AbstractContextManager[Recording]:
    """Record the memory of your own training loop in the block, phase by phase. A few steps are enough.

    >>> import torch
    >>> model = torch.nn.Linear(1000, 1000, bias=False)
    >>> with record(model) as recording:
    ...     model(torch.ones(1, 1000)).sum().backward()
    >>> int(recording.table()["gradients_bytes"].max())
    4000000

    Args:
        model: whose parameters, gradients and buffers are told apart; its device is the one recorded.
        optimizer: whose states are told apart.

    Raises ProfilerError for a model without parameters, or on a device that cannot be recorded.
    """
    from profiler.recording import loop

    return loop.record(model, optimizer)


def simulated_gpu(name: str) -> AbstractContextManager[torch.device]:
    """Inside the block "cuda" is a simulated GPU of that name or size, for `record` and your own loop.

    >>> import torch
    >>> with simulated_gpu("24 GiB") as device:
    ...     _ = torch.empty(1 << 20, device=device)
    ...     torch.cuda.memory_allocated()
    4194304

    Open it before the first `backward()` of the process. Raises ProfilerError for an unknown GPU, a second
    one, and where backward has run already.
    """
    from profiler.recording import loop

    return loop.simulated_gpu(name)


def terms(workload: Workload, gpu: GPU | str | None = None) -> list[PhaseTerms]:
    """The formula: the named terms that add up to each phase's allocated bytes, each with its source.

    >>> loaded = terms(Workload("mlp-tiny", batch=32), "H100")[0]
    >>> [(term.category, term.size_bytes, term.expression) for term in loaded.end]
    [('parameters', 340008, '4 B × 85,002 parameters')]
    >>> str(loaded.phase), loaded.end_bytes
    ('model_loaded', 340008)

    Args:
        workload: what to train; its forward pass is counted in this process.
        gpu: whose kernels decide what is kept for the backward pass; None for the CPU's.

    For a GPU the pass runs on a simulated one, with the limits of `simulate` in this process.
    Raises ProfilerError for a model that cannot be built, or counted on that GPU.
    """
    from profiler.formula.facts import count, count_on_gpu
    from profiler.formula.per_phase import phase_terms
    from profiler.training.models import examine
    from profiler.training.user_code import errors_in_one_line

    examine(workload, None if gpu is None else _gpu(gpu))
    with errors_in_one_line(workload.model):
        facts = count(workload) if gpu is None else count_on_gpu(workload, _gpu(gpu))
    return phase_terms(workload, facts, "cpu" if gpu is None else "cuda")


def fit(
    workload: Workload,
    gpu: GPU | str,
    allocator_settings: str = "",
    largest: bool = True,
    engine: str | None = None,
) -> Fit:
    """Whether the workload fits on the GPU: verdict, headroom, largest batch, and what would help.

    >>> answer = fit(Workload("mlp-tiny", batch=32), "T4", largest=False)
    >>> answer.verdict, answer.headroom_bytes > 0
    ('fits', True)

    Args:
        workload: what to train.
        gpu: where, see `find_gpu`.
        allocator_settings: as PYTORCH_ALLOC_CONF has them.
        largest: whether to search for the largest batch, which takes a few runs more.
        engine: see `simulate`.

    Raises ProfilerError as `simulate` does.
    """
    from profiler.advice import fit as advice
    from profiler.gpu.allocator.settings import AllocatorSettings

    AllocatorSettings.parse(allocator_settings)  # wrong ones are said before anything runs
    question = advice.Question(allocator_settings=allocator_settings, with_largest=largest, engine=engine)
    return advice.fit(workload, _gpu(gpu), question)


def difference(before: Run, after: Run) -> Difference:
    """What grew between the peaks of two runs: by category, module and line, to the byte.

    >>> small, large = (simulate(Workload("mlp-tiny", batch=n), "T4") for n in (1024, 2048))
    >>> grown = difference(small, large)
    >>> grown.difference_bytes == sum(part.difference_bytes for part in grown.categories) > 0
    True

    Args:
        before, after: what `simulate`, `measure`, `load` or a recording's `run` gives.

    Raises ProfilerError for runs without a single allocation.
    """
    from profiler.trace import difference as comparing

    return comparing.difference(before, after)


def _gpu(gpu: GPU | str) -> GPU:
    return find_gpu(gpu) if isinstance(gpu, str) else gpu


def __getattr__(name: str) -> Any:
    if name == "Recording":
        from profiler.recording.loop import Recording

        return Recording
    raise AttributeError(f"module 'profiler' has no attribute {name!r}")
