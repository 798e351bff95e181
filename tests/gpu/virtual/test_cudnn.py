"""cuDNN on the virtual GPU: its own plans, against cuDNN asked directly; recurrent weights, against a sum."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.virtual_gpu import answer, installed_torch, needed, one, run_python

HERE = Path(__file__).parent
# The text that cuDNN itself gives for an A100-SXM4-40GB (a CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR read back).
A100 = {
    **{"cudaDeviceId": 0, "totalGlobalMem": 42405855232, "deviceVer": 800, "driverVer": 13000},
    **{"maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "regsPerBlock": 65536},
    **{"multiProcessorCount": 108, "smCountOrigin": 0, "warpSize": 32, "maxSharedMemoryPerBlock": 49152},
    **{"maxSharedMemoryPerBlockOptin": 166912, "reservedSharedMemoryPerBlock": 1024},
    **{"maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048},
    **{"pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1, "smClockRateKHz": 1410000},
    **{"memClockRateKHz": 1215000, "l2CacheSize": 41943040, "deviceName": "NVIDIA A100-SXM4-40GB"},
}


@pytest.fixture(scope="module")
def asks_cudnn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that asks the installed cuDNN, without PyTorch, for the workspaces of a convolution."""
    library = needed(installed_torch()).cudnn
    compiler = shutil.which("cc") or shutil.which("gcc")
    if library is None or compiler is None:
        pytest.skip("no nvidia-cudnn package beside torch" if compiler else "no C compiler")
    folder = tmp_path_factory.mktemp("cudnn")
    program, card = folder / "cudnn_plan_workspaces", folder / "a100.json"
    source = HERE / "cudnn_plan_workspaces.c"
    subprocess.run([compiler, "-O1", "-o", str(program), str(source), "-ldl"], check=True)
    card.write_text(json.dumps(A100, separators=(",", ":")))
    return [str(program), str(library), str(card)]


LAYER = """
import json, torch
layer = torch.nn.Conv2d(64, 64, 3, padding=1, bias=False, device="cuda")
x = torch.randn(32, 64, 56, 56, device="cuda", requires_grad=True)
torch.cuda.memory._record_memory_history()
layer(x).backward(torch.empty(32, 64, 56, 56, device="cuda"))
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] == "alloc"]))
"""


@pytest.mark.parametrize("operation", ["forward", "data", "filter"])
def test_a_convolution_takes_the_workspace_of_cudnns_first_plan(asks_cudnn, operation):
    sizes = ["float", "channels_first", "1", "32,64,56,56", "64,64,3,3", "1,1", "1,1"]
    done = subprocess.run([*asks_cudnn, operation, *sizes], capture_output=True, text=True, check=True)
    first = int(done.stdout.split()[0])
    assert first > 1 << 20
    assert first in answer(LAYER, one("A100-40GB"), needed(installed_torch()))


@pytest.mark.parametrize(("layer", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_the_weights_of_a_recurrent_layer_are_one_block(layer, gates):
    code = f"""
import json, torch
layer = torch.nn.{layer}(64, 128, 2, bidirectional=True, device="cuda")
layer(torch.randn(50, 8, 64, device="cuda"))[0].sum().backward()
spaces = {{weight.untyped_storage().data_ptr() for weight in layer.parameters()}}
print(json.dumps([len(spaces), next(iter(layer.parameters())).untyped_storage().nbytes()]))
"""
    first, second = (64 + 128) * 128, (2 * 128 + 128) * 128  # the second layer reads both directions
    biases = 2 * 128
    expected = 4 * gates * 2 * (first + second + 2 * biases)  # bytes, gates, directions
    assert answer(code, one("A100-40GB"), needed(installed_torch())) == [1, expected]


def test_what_is_a_rule_is_said():
    done, journal = run_python(
        ["-c", "import torch; torch.nn.GRU(8, 8, device='cuda')(torch.ones(2, 2, 8, device='cuda'))"],
        one("A100-40GB"),
        needed(installed_torch()),
    )
    assert done.returncode == 0, done.stderr
    assert any("recurrent layers: work and reserve space by a rule" in text for text in journal.assumed)
