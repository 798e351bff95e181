"""cuDNN on the virtual GPU: its own plans, against cuDNN asked directly; recurrent weights, against a sum."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.gpu.virtual.launch import environment
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
def first_workspace(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., int]:
    """Asks the installed cuDNN, without PyTorch, for the workspace of the first plan of a convolution.

    A driver must be there to load, as on every machine with a GPU: without one, cuDNN leaves engines out.
    """
    installation = needed(installed_torch())
    compiler = shutil.which("cc") or shutil.which("gcc")
    if installation.cudnn is None or compiler is None:
        pytest.skip("no nvidia-cudnn package beside torch" if compiler else "no C compiler")
    folder = tmp_path_factory.mktemp("cudnn")
    program, card = folder / "cudnn_plan_workspaces", folder / "a100.json"
    source = HERE / "cudnn_plan_workspaces.c"
    warnings = ["-std=c11", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([compiler, *warnings, "-O1", "-o", str(program), str(source), "-ldl"], check=True)
    card.write_text(json.dumps(A100, separators=(",", ":")))
    (folder / "gpu").mkdir()
    variables = environment(one("A100-40GB"), folder / "gpu", installation)

    def ask(*words: str) -> int:
        command = [str(program), str(installation.cudnn), str(card), *words]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=True)
        plans = [line.split() for line in done.stdout.splitlines()]
        assert all(taken == said for taken, said in plans), words  # stand_ins/cudnn/graph.c rests on it
        return int(plans[0][0])

    return ask


def answers(codes: list[str]) -> list:
    """What each prints, one after another in one process: torch and cuDNN are loaded once."""
    return answer(
        f"""
import contextlib, io, json, torch
found = []
for code in {codes!r}:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        exec(code, {{}})
    found.append(json.loads(said.getvalue()))
    torch.cuda.memory._record_memory_history(None)  # the next begins with no events
print(json.dumps(found))
""",
        one("A100-40GB"),
        needed(installed_torch()),
    )


LAYER = """
import json, torch
channels, groups, kind, format = {channels}, {groups}, torch.{kind}, torch.{format}
dimensions = {dimensions}
convolution = (torch.nn.Conv2d, torch.nn.Conv3d)[dimensions - 2]
layer = convolution(channels, channels, 3, padding=1, groups=groups, bias=False).to("cuda", kind)
x = torch.randn(16, channels, *[16] * dimensions, device="cuda", dtype=kind)
layer, x = layer.to(memory_format=format), x.contiguous(memory_format=format).requires_grad_()
dy = torch.empty_like(x)
torch.cuda.memory._record_memory_history()
layer(x).backward(dy)
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] == "alloc"]))
"""
FORMATS = {2: ("contiguous_format", "channels_last"), 3: ("contiguous_format", "channels_last_3d")}


CONVOLUTIONS = (
    ("float", False, 2, 1),
    ("float", True, 2, 1),
    ("half", False, 2, 1),
    ("bfloat16", True, 2, 1),
    ("float", False, 2, 4),
    ("half", True, 3, 1),
)


def test_a_convolution_takes_the_workspaces_of_cudnns_first_plans(first_workspace):
    channels = 64
    codes = [
        LAYER.format(
            channels=channels,
            groups=groups,
            kind=kind,
            format=FORMATS[dimensions][last],
            dimensions=dimensions,
        )
        for kind, last, dimensions, groups in CONVOLUTIONS
    ]
    for (kind, last, dimensions, groups), taken in zip(CONVOLUTIONS, answers(codes), strict=True):
        spatial, ones = ",".join(["16"] * dimensions), ",".join("1" * dimensions)
        kernel = f"{channels},{channels // groups},{','.join('3' * dimensions)}"
        layout = "channels_last" if last else "channels_first"
        words = [kind, layout, str(groups), f"16,{channels},{spatial}", kernel, ones, ones]
        found = [first_workspace(operation, *words) for operation in ("forward", "data", "filter")]
        assert max(found) > 0, words
        assert [size for size in found if size and size not in taken] == [], words


def test_a_benchmark_chooses_the_same_plans_in_each_run():
    code = """
import json, torch
torch.backends.cudnn.benchmark = True
layer = torch.nn.Conv2d(64, 64, 3, padding=1, device="cuda")
x = torch.randn(8, 64, 32, 32, device="cuda", requires_grad=True)
torch.cuda.memory._record_memory_history()
for _ in range(2):
    layer(x).sum().backward()
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] == "alloc"]))
"""
    runs = [answer(code, one("A100-40GB"), needed(installed_torch())) for _ in range(2)]
    assert runs[0] == runs[1]


def test_attention_on_hopper_is_cudnns_and_keeps_its_gradient_of_the_queries_in_32_bits():
    if needed(installed_torch()).cudnn is None:
        pytest.skip("no nvidia-cudnn package beside torch")
    code = """
import json, torch
of = {"device": "cuda", "dtype": torch.bfloat16, "requires_grad": True}
q, k, v = (torch.randn(4, 16, 1024, 64, **of) for _ in "qkv")
with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
torch.cuda.memory._record_memory_history()
out.backward(torch.empty_like(out))
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] == "alloc"]))
"""
    taken = answer(code, one("H100-80GB"), needed(installed_torch()))
    queries_in_32_bits = 4 * 16 * 1024 * 64 * 4
    assert any(queries_in_32_bits <= size < 1.1 * queries_in_32_bits for size in taken)


# Reserve spaces that others published, in bytes: JAX's test of its LSTM (cuDNN 9), PyTorch's operator log of
# tts_angular (cuDNN 8: 16 bytes more), deepspeech.pytorch's issue 172 (cuDNN 7), PyTorch's issue 2895
# (cuDNN 6: four layers of 320 and steps x batch are inferred, one number for both figures).
PUBLISHED = (
    ("LSTM(1, 1)", "float32", 1, 1, 320),
    ("LSTM(256, 768)", "float16", 50, 64, 24_576_016),
    ("GRU(672, 800, bidirectional=True)", "float32", 326, 64, 801_177_600),
    ("LSTM(123, 320, 4)", "float32", 500, 50, 736_000_000),
    ("GRU(123, 320, 4)", "float32", 500, 50, 864_000_000),
)
RECURRENT = """
import json, torch
layer = torch.nn.{layer}.to("cuda", torch.{kind})
x = torch.empty({steps}, {batch}, layer.input_size, device="cuda", dtype=torch.{kind})
torch.cuda.memory._record_memory_history()
layer(x)
events = torch.cuda.memory._snapshot()["device_traces"][0]
print(json.dumps([e["size"] for e in events if e["action"] == "alloc"]))
"""


def test_the_reserve_of_a_recurrent_layer_is_what_was_published():
    codes = [
        RECURRENT.format(layer=layer, kind=kind, steps=steps, batch=batch)
        for layer, kind, steps, batch, _ in PUBLISHED
    ]
    for (layer, *_, published), taken in zip(PUBLISHED, answers(codes), strict=True):
        assert any(0 <= published - size <= 16 for size in taken), layer


def test_where_no_cudnn_is_installed_the_bound_is_said(tmp_path):
    torch = needed(installed_torch())
    alone = tmp_path / "torch"
    alone.symlink_to(torch.folder)  # nothing of nvidia's stands beside it
    done, journal = run_python(
        [
            "-c",
            "import torch; torch.nn.Conv2d(8, 8, 3, device='cuda')(torch.ones(1, 8, 9, 9, device='cuda'))",
        ],
        one("A100-40GB"),
        dataclasses.replace(torch, folder=alone),
    )
    assert done.returncode == 0, done.stderr
    assert "cuDNN is not installed: its convolution workspaces count as 0" in journal.assumed


GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BOTH_DIRECTIONS = """
import json, torch
layer = torch.nn.{layer}(64, 128, 2, bidirectional=True, device="cuda")
layer(torch.randn(50, 8, 64, device="cuda"))[0].sum().backward()
spaces = {{weight.untyped_storage().data_ptr() for weight in layer.parameters()}}
print(json.dumps([len(spaces), next(iter(layer.parameters())).untyped_storage().nbytes()]))
"""


def test_the_weights_of_a_recurrent_layer_are_one_block():
    first, second = (64 + 128) * 128, (2 * 128 + 128) * 128  # the second layer reads both directions
    biases = 2 * 128
    found = answers([BOTH_DIRECTIONS.format(layer=layer) for layer in GATES])
    for (layer, gates), said in zip(GATES.items(), found, strict=True):
        expected = 4 * gates * 2 * (first + second + 2 * biases)  # bytes, gates, directions
        assert said == [1, expected], layer


def test_what_is_a_rule_is_said():
    done, journal = run_python(
        ["-c", "import torch; torch.nn.GRU(8, 8, device='cuda')(torch.ones(2, 2, 8, device='cuda'))"],
        one("A100-40GB"),
        needed(installed_torch()),
    )
    assert done.returncode == 0, done.stderr
    assert any("recurrent layers: work and reserve space by a rule" in text for text in journal.assumed)
