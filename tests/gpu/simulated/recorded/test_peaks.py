"""Peaks of recorded CUDA runs, predicted from an empty simulated GPU. The longer runs are in
tests/benchmarks/accuracy_traces.py, which prints them all.
"""

from pathlib import Path

import pytest

from tests.support.groundtruth import SNAPSHOTS, needs_snapshots
from tests.support.recorded.comparison import matched_events, recorded, simulated
from tests.support.recorded.programs import TRACES, Trace

# Parts of file names.
EXACT = (
    "medium_128_inference",
    "large_cl128_fw.",
    "large_cl128_fw_with_grad.",
    "xl_ctx128_forward_none.972da1f1",
    "xl_ctx128_forward_none.9a386054",
    "xl_ctx128_forward_bf16.3333ec24",
    "xl_ctx128_full_step_none",
    "xl_ctx128_full_step_bf16",
    "xl_fwd_cl128",
    "MAGMA27",
    "memory_ctx128_forward_.",
)
# Prediction less recording, in bytes of peak allocated and of peak reserved. bf16: autocast frees its
# cached casts in the order of a hash table of addresses. First step of torch 2.6: its backward of an
# index operation takes two small blocks less.
CLOSE = {
    "large_cl128_fw_bf16": (0, 0),
    "large_cl128_fw_with_grad_bf16": (0, 0),
    "xl_ctx128_forward_bf16.e1139f57": (0, 0),
    "memory_files__memory_ctx128_fullstep.": (0, 0),
}


def trace_of(part: str) -> tuple[Trace, Path]:
    (trace,) = [each for each in TRACES if part in each.file]
    (path,) = SNAPSHOTS.glob(trace.file)
    return trace, path


@needs_snapshots
@pytest.mark.parametrize("part", EXACT)
def test_every_event_and_both_peaks(part):
    trace, path = trace_of(part)
    measured, predicted = recorded(path), simulated(trace)
    assert predicted.events == measured.events
    assert len(measured.events) > 2_500
    assert predicted.peak_allocated_bytes == measured.peak_allocated_bytes
    assert predicted.peak_reserved_bytes == measured.peak_reserved_bytes


@needs_snapshots
@pytest.mark.parametrize("part", CLOSE)
def test_peaks_where_some_events_differ(part):
    trace, path = trace_of(part)
    measured, predicted = recorded(path), simulated(trace)
    assert matched_events(predicted, measured) > len(measured.events) // 4
    assert CLOSE[part] == (
        predicted.peak_allocated_bytes - measured.peak_allocated_bytes,
        predicted.peak_reserved_bytes - measured.peak_reserved_bytes,
    )
