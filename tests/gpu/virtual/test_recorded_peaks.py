"""Recorded CUDA runs: both peaks of their programs, on the virtual GPU with the torch of the recording.

tests/benchmarks/virtual_gpu_traces.py runs all of them.
"""

from __future__ import annotations

import json

import pytest

from tests.support.groundtruth import SNAPSHOTS, needs_snapshots
from tests.support.recorded.comparison import recorded
from tests.support.recorded.programs import TRACES
from tests.support.virtual_gpu import needed, one, run_python, torch_of_version

# Parts of file names: plain and half precision, an optimizer, expandable segments, five kinds of GPU.
EXACT = (
    "medium_128_training",
    "large_cl512_fw_bf16",
    "xl_ctx1024_forward_bf16",
    "xl_ctx128_full_step_bf16",
    "xl_fwd_cl512_dtypetorch.float32",
    "MAGMA27",
    "memory_files__memory_ctx128_fullstep.",
)


@needs_snapshots
@pytest.mark.parametrize("part", EXACT)
def test_both_peaks(part):
    ((number, trace),) = [(number, each) for number, each in enumerate(TRACES) if part in each.file]
    (path,) = SNAPSHOTS.glob(trace.file)
    installation = needed(torch_of_version(trace.torch_version))
    variables = {"PYTORCH_CUDA_ALLOC_CONF": f"expandable_segments:{trace.settings.expandable_segments}"}
    program = ["-m", "tests.support.recorded.on_virtual_gpu", str(number)]
    done, _ = run_python(program, one(trace.gpu), installation, **variables)
    assert done.returncode == 0, done.stderr[-2000:]
    truth = recorded(path)
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "allocated": truth.peak_allocated_bytes,
        "reserved": truth.peak_reserved_bytes,
    }
