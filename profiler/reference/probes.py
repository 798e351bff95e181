"""Kernel probes: one operation at a time, and the list of what it asks the allocator for, in order.

The same code runs on a GPU, whose list is a recording, and on the simulated GPU, whose list comes from the
rules of profiler.gpu.kernels. A list holds each request (positive) and the end of what the operation gave
back (negative). Its outputs outlive the probe: autograd's thread may let go of them a moment after it
returned.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from profiler.device import Device
from profiler.errors import first_line
from profiler.reference.probe import Probe
from profiler.runs.run_settings import ATTENTION_KERNELS, RunSettings
from profiler.trace.events import Allocation, Entry, Free
from profiler.trace.phase import Phase

Row = dict[str, Any]

# Column -> what it says, of the table of a campaign's probes.
COLUMNS = {
    "operation": "a name of profiler.reference.probe_operations.OPERATIONS",
    "shape": "what the operation makes of it is said in its docstring",
    "dtype": "of floating-point operands",
    "option": "an attention kernel, a layout of images (a name of torch's), or empty",
    "position": "of the request in its probe, from 0; -1 in the single row of a probe that failed",
    "requested_bytes": "asked for; negative where that many bytes were given back; 0 if the probe failed",
    "op": "the operation, or the line of Python, that asked",
    "outcome": "ok, or skipped",
    "detail": "why skipped",
}


def requests_of_probes(probes: Sequence[Probe], device: Device) -> list[Row]:
    """The rows of all probes (see COLUMNS), run in this process on the device."""
    from profiler.reference.probe_operations import OPERATIONS
    from profiler.runs.execute import make_recorder
    from profiler.runs.limits import attention_by
    from profiler.training.step import TrainingState

    failures: dict[Probe, str] = {}
    outputs: list[object] = []
    recorder = make_recorder(device, RunSettings())
    with recorder:
        for number, probe in enumerate(probes, start=1):
            try:
                with attention_by(probe.option if probe.option in ATTENTION_KERNELS else ""):
                    with recorder.phase(Phase(number, "prepare"), TrainingState()):
                        operate = OPERATIONS[probe.operation](probe, recorder.device)
                    with recorder.phase(Phase(number, "operate"), TrainingState()):
                        outputs.append(operate())
            except RuntimeError as error:  # out of memory and unsupported operations included
                failures[probe] = f"{type(error).__name__}: {first_line(error)}"
            operate = _nothing
            outputs.clear()
    entries = _by_phase(recorder.entries)
    return [
        row
        for number, probe in enumerate(probes, start=1)
        for row in _rows(probe, entries.get(Phase(number, "operate"), []), failures.get(probe))
    ]


def _nothing() -> None:
    pass


def _by_phase(entries: Sequence[Entry]) -> dict[Phase, list[tuple[int, str]]]:
    """Requests (positive) and frees (negative) of each phase, with the op; no frees of earlier blocks."""
    found: dict[Phase, list[tuple[int, str]]] = {}
    events: list[tuple[int, str]] = []
    live: dict[int, tuple[int, str]] = {}
    for entry in entries:
        if isinstance(entry, Allocation):
            live[entry.address] = (entry.requested_bytes, entry.op)
            events.append(live[entry.address])
        elif isinstance(entry, Free):
            born = live.pop(entry.address, None)
            if born is not None:
                events.append((-born[0], born[1]))
        else:
            found[entry.phase] = events
            events, live = [], {}
    return found


def _rows(probe: Probe, events: list[tuple[int, str]], failure: str | None) -> Iterator[Row]:
    shared = {
        **dict(zip(("operation", "shape", "dtype", "option"), probe.key, strict=True)),
        "outcome": "ok" if failure is None else "skipped",
        "detail": failure,
    }
    if failure is not None or not events:
        yield {**shared, "position": -1, "requested_bytes": 0, "op": ""}
        return
    for position, (requested_bytes, op) in enumerate(events):
        yield {**shared, "position": position, "requested_bytes": requested_bytes, "op": op}


_SHAPES: dict[str, tuple[tuple[int, ...], ...]] = {
    # cuBLAS takes its workspaces here, once for each thread, so that no later probe shows them.
    "matrix_product": ((64, 64, 64), (1024, 1024, 1024)),
    "linear_backward": ((64, 64, 64), (2048, 768, 3072), (8192, 1024, 1024)),
    "column_sum": (
        *((rows, 768) for rows in (128, 512, 1024, 2048, 4096, 8192, 16384)),
        *((4096, columns) for columns in (8, 64, 1024, 3072, 4096, 50257)),
        (32768, 16),
        (131072, 1),
    ),
    "row_mean": ((64, 65536), (4, 1 << 20), (4096, 768)),
    "total_sum": ((1 << 10,), (1 << 16,), (1 << 20,), (1 << 24,)),
    "embedding_backward": ((50257, 768, 3072), (50257, 768, 3073), (50257, 768, 8192), (1000, 64, 16384)),
    "layer_norm_backward": ((2048, 768), (65536, 768), (65537, 768), (131072, 64)),
    "rms_norm_backward": ((2048, 2048), (131072, 64)),
    "group_norm_backward": ((8, 64, 32, 32), (32, 256, 16, 16)),
    "batch_norm": ((32, 64, 56, 56), (32, 2048, 7, 7)),
    "batch_norm_backward": ((32, 64, 56, 56), (32, 2048, 7, 7)),
    "sort": ((1, 1000), (16, 4096), (16, 50257), (1, 1 << 20)),
    "topk": ((8, 50257, 50), (1, 1 << 20, 10), (512, 1000, 5)),
    "cumsum": ((1 << 20,), (64, 4096)),
    "convolution": ((8, 64, 64, 56), (8, 256, 256, 14), (8, 3, 64, 224)),
    "convolution_backward": ((8, 64, 64, 56), (8, 256, 256, 14)),
    "clip_grad_norm": ((1, 1024), (64, 256), (300, 64)),
    "index_put": ((50257, 768, 2048), (1000, 64, 16384)),
    "cross_entropy_backward": ((2048, 50257), (32, 1000)),
}
_IMAGES = ("convolution", "convolution_backward", "batch_norm", "batch_norm_backward")
_HALF_TOO = ("column_sum", "linear_backward", "layer_norm_backward", "embedding_backward", *_IMAGES)
_ATTENTION = ((2, 12, 512, 64), (1, 16, 2048, 64), (2, 8, 1024, 128), (2, 4, 64, 16))
_ATTENTION_KERNELS = ("math", "efficient", "flash", "cudnn")


def probes(size: str) -> list[Probe]:
    """All probes ("full") or one an operation (other sizes); none sees what an earlier one keeps for ever."""
    if size != "full":
        smallest = {operation: min(shapes, key=prod) for operation, shapes in _SHAPES.items()}
        attention_shape = min(_ATTENTION, key=prod)
        return [
            *(Probe(operation, shape) for operation, shape in smallest.items()),
            *(Probe("attention_backward", attention_shape, "bfloat16", k) for k in _ATTENTION_KERNELS),
            *(
                Probe(operation, min(_SHAPES[operation], key=prod), "float32", "channels_last")
                for operation in _IMAGES
            ),
        ]
    found = [Probe(operation, shape) for operation, shapes in _SHAPES.items() for shape in shapes]
    found += [Probe(operation, shape, "bfloat16") for operation in _HALF_TOO for shape in _SHAPES[operation]]
    found += [
        Probe(operation, shape, dtype, "channels_last")
        for operation in _IMAGES
        for shape in _SHAPES[operation]
        for dtype in ("float32", "bfloat16")
    ]
    for operation in ("attention", "attention_backward", "grouped_attention_backward"):
        for kernel in _ATTENTION_KERNELS:
            found += [Probe(operation, shape, "bfloat16", kernel) for shape in _ATTENTION]
        found += [Probe(operation, shape, "float32", "efficient") for shape in _ATTENTION]
    return found
