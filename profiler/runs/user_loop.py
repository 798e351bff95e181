"""A training function of the user's own, run as it is on a device; its phases are found by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from profiler.device import VIRTUAL, Device
from profiler.errors import ProfilerError, first_line
from profiler.runs.execute import in_process_on, make_recorder, out_of_memory
from profiler.runs.provenance import provenance
from profiler.runs.run_settings import RunSettings
from profiler.trace.phase import MODEL_LOADED, Phase
from profiler.trace.run import Run


def run_loop(
    reference: str, device: Device, allocator_settings: str = "", heard: Callable[[str], None] | None = None
) -> Run:
    """Run a user's own training code on a GPU that is not there.

    On a simulated one in this process, on a virtual one in a process of its own; `heard` is told what that
    printed, which is printed here by default. Nothing is computed: a program that reads a floating-point
    scalar, such as its loss, gets a number that falls; `rests_on` says where.

    Args:
        reference: "path/to/script.py:function", or "package.module:function". The function is called with
            nothing, or with the device if it has one argument without a default; it trains on "cuda".
        device: the GPU.
        allocator_settings: as PYTORCH_ALLOC_CONF has them.
        heard: see above.

    Raises:
        ProfilerError: no such file or function, or it failed (names the user's own line), or it allocated
            nothing on "cuda".
    """
    if device.kind == VIRTUAL:
        settings = RunSettings(allocator_settings=allocator_settings)
        arguments = (reference, device, allocator_settings)
        heard = heard or (lambda text: print(text, end=""))
        return in_process_on(device, run_loop_on, *arguments, settings=settings, name=reference, heard=heard)
    return run_loop_on(reference, device, allocator_settings)


def run_loop_on(reference: str, device: Device, allocator_settings: str = "") -> Run:
    """What `run_loop` gives, in this process, which has the device."""
    import torch

    from profiler.recording.auto_phases import auto_phases
    from profiler.training.user_code import (
        UserCode,
        call_with_device,
        errors_in_one_line,
        split_reference,
    )

    location, name = split_reference(reference)
    code, error = UserCode(location), None
    recorder = make_recorder(device, RunSettings(allocator_settings=allocator_settings), own_step=False)
    with code.in_use():
        code.import_libraries()
        with errors_in_one_line(reference), recorder:
            try:
                with auto_phases(recorder.phase):
                    call_with_device(code.function(name), recorder.device, reference)
            except torch.OutOfMemoryError as raised:
                if not recorder.refusals:
                    raise
                error = first_line(raised)
    about = provenance(device) | {"allocator_settings": allocator_settings}
    run = replace(recorder.run(device, reference), provenance=about)
    if not run.allocations and error is None:
        raise ProfilerError(
            f"{reference} allocated nothing on cuda; let it train there, or give a function that "
            "returns a model without --loop"
        )
    return run if error is None else out_of_memory(run, error, Phase(0, MODEL_LOADED))
