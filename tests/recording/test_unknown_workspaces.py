"""What a simulated run says of convolutions: their workspaces are not in its figures."""

import pytest

from profiler.device import SIMULATED, Device
from profiler.gpu.cards import find_gpu
from profiler.recording.simulated import UNKNOWN_WORKSPACES
from profiler.runs.rows import simulation_rows
from profiler.runs.run_settings import RunSettings
from profiler.trace.load import read_run
from profiler.workload import Workload


@pytest.mark.parametrize(("model", "length", "said"), [("resnet-tiny", 32, True), ("gpt2-tiny", 64, False)])
def test_workspaces_of_convolutions_are_said_to_be_left_out(model, length, said, tmp_path):
    trace = tmp_path / "run.parquet"
    device = Device(SIMULATED, find_gpu("A100-40GB"))
    simulation_rows(Workload(model, 4, length), device, RunSettings(), trace)
    assert (UNKNOWN_WORKSPACES in read_run(trace).rests_on) == said
