"""A training function of the user's own, run as it is on a device; its phases are found by themselves."""

from __future__ import annotations

from dataclasses import replace

from profiler.device import SIMULATED, Device
from profiler.errors import ProfilerError, first_line
from profiler.gpu.allocator import AllocatorSettings
from profiler.runs.execute import out_of_memory
from profiler.runs.provenance import provenance
from profiler.trace.phase import MODEL_LOADED, Phase
from profiler.trace.run import Run


def run_loop_on(reference: str, device: Device, allocator_settings: str = "") -> Run:
    """Run a user's own training code on a simulated GPU, in this process.

    Nothing is computed: a program that reads a floating-point scalar, such as its loss, gets a number that
    falls; `read_back` says where.

    Args:
        reference: "path/to/script.py:function", or "package.module:function". The function is called with
            nothing, or with the device if it has one argument without a default; it trains on "cuda".
        device: the simulated GPU.
        allocator_settings: as PYTORCH_ALLOC_CONF has them.

    Raises:
        ProfilerError: no such file or function, or it failed (names the user's own line), or it allocated
            nothing on "cuda".
    """
    import torch

    from profiler.recording.auto_phases import auto_phases
    from profiler.recording.simulated import PROGRAM_READS, SimulatedRecorder
    from profiler.training.user_code import (
        UserCode,
        call_with_device,
        errors_in_one_line,
        split_reference,
    )

    assert device.kind == SIMULATED
    assert device.gpu is not None
    location, name = split_reference(reference)
    code, error = UserCode(location), None
    settings = AllocatorSettings.parse(allocator_settings)
    recorder = SimulatedRecorder(device.gpu, settings, float_reads=PROGRAM_READS)
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
