"""The installed CUDA build of torch on the virtual GPU, against numbers worked out by hand."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import replace

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.virtual import launch
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE, write_card
from profiler.gpu.virtual.journal import read_journal
from profiler.units import GIB, MIB
from tests.support.virtual_gpu import answer, installed_torch, needed, one, run_python, torch_of_version

A100 = replace(one("A100-40GB"), context_bytes=400 * MIB)
TOTAL = 42_298_834_944  # of the A100, in deviceQuery
# PyTorch's cuBLAS workspace below Hopper, ":4096:2:16:8": two buffers of 4096 KiB, eight of 16 KiB.
WORKSPACE = (2 * 4096 + 8 * 16) * 1024

STEP = """
import json, torch
model = torch.nn.Linear(1000, 300, bias=False, device="cuda")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
x = torch.randn(7, 1000, device="cuda")
for _ in range(2):
    optimizer.zero_grad(set_to_none=True)
    model(x).sum().backward()
    optimizer.step()
print(json.dumps([torch.cuda.memory_allocated(), torch.cuda.memory_reserved()]))
"""


def expected_of_the_step() -> list[int]:
    """Bytes allocated and reserved after STEP, from the caching allocator's rules."""
    weight = 1_200_128  # 1000 * 300 * 4 bytes, in units of 512
    batch = 28_160  # 7 * 1000 * 4
    # Weight, gradient, momentum, and a workspace for the handle of each thread (backward has its own), all
    # over 1 MiB, lie in one segment of 20 MiB; what is left of it, under 1 MiB, is not split off.
    large = 3 * weight + 2 * WORKSPACE
    assert 20 * MIB - MIB < large < 20 * MIB
    return [20 * MIB + batch, (20 + 2) * MIB]


def test_a_training_step_allocates_what_arithmetic_says():
    assert answer(STEP, A100, needed(installed_torch())) == expected_of_the_step()


@pytest.mark.parametrize("version", [(2, 6), (2, 11)])
def test_older_torch_too(version):
    assert answer(STEP, A100, needed(torch_of_version(version))) == expected_of_the_step()


def test_properties_and_free_memory_are_the_cards():
    code = """
import json, torch
of = torch.cuda.get_device_properties(0)
free, total = torch.cuda.mem_get_info()
kept = torch.empty(10 << 20, dtype=torch.uint8, device="cuda")
print(json.dumps([of.name, of.major, of.minor, of.multi_processor_count, of.total_memory,
                  of.max_threads_per_multi_processor, of.L2_cache_size, total, free,
                  free - torch.cuda.mem_get_info()[0], torch.cuda.device_count()]))
"""
    assert answer(code, A100, needed(installed_torch())) == [
        *("NVIDIA A100-SXM4-40GB", 8, 0, 108, TOTAL, 2048, 40 * MIB, TOTAL, TOTAL - 400 * MIB),
        *(10 * MIB, 1),  # a request of 10 MiB or more gets a segment of its own size
    ]


def test_out_of_memory_is_said_as_on_the_card():
    code = """
import torch
held = torch.empty(30 << 30, dtype=torch.uint8, device="cuda")
torch.empty(20 << 30, dtype=torch.uint8, device="cuda")
"""
    done, journal = run_python(["-c", code], A100, needed(installed_torch()))
    assert done.returncode == 1
    said = re.sub(r"\s+", " ", done.stderr)
    assert "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB." in said
    # 42,298,834,944 - 400 MiB - 30 GiB = 9,667,001,344 bytes are left
    assert "GPU 0 has a total capacity of 39.39 GiB of which 9.00 GiB is free." in said
    assert "this process has 30.39 GiB memory in use. Of the allocated memory 30.00 GiB is allocated" in said
    assert list(journal.peak_bytes.values()) == [30 * GIB + 400 * MIB]


def test_several_gpus_and_their_order():
    code = """
import json, torch
held = [torch.empty(33 << 20, dtype=torch.uint8, device="cuda:1") for _ in range(3)]
places = [tensor.data_ptr() for tensor in held]
print(json.dumps([torch.cuda.device_count(), torch.cuda.memory_allocated(0), torch.cuda.memory_allocated(1),
                  places == sorted(places), (places[1] - places[0]) >> 20]))
"""
    two = replace(A100, devices=2)
    installation = needed(installed_torch())
    # 33 MiB get a segment of 34, not split: falling in chunks of 32, rising without a gap
    assert answer(code, two, installation) == [2, 0, 3 * 34 * MIB, False, -64]
    assert answer(code, replace(two, rising_addresses=True), installation) == [2, 0, 3 * 34 * MIB, True, 34]


def test_cuda_visible_devices_is_heeded():
    code = "import torch; print(torch.cuda.device_count())"
    two, installation = replace(A100, devices=2), needed(installed_torch())
    assert answer(code, two, installation, CUDA_VISIBLE_DEVICES="1") == 1
    assert answer(code, two, installation, CUDA_VISIBLE_DEVICES="") == 0


def test_expandable_segments_map_whole_pages():
    code = """
import json, torch
held = [torch.empty(30 << 20, dtype=torch.uint8, device="cuda") for _ in range(3)]
at_most = torch.cuda.memory_reserved()
del held
torch.cuda.empty_cache()
print(json.dumps([at_most, torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]]))
"""
    # 90 MiB in pages of 20 MiB
    expected = [100 * MIB, 0, TOTAL - 400 * MIB]
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    assert answer(code, A100, needed(installed_torch()), **settings) == expected


def test_a_cuda_graph_keeps_its_pool():
    code = """
import json, torch
x = torch.zeros(1 << 20, device="cuda")
graph = torch.cuda.CUDAGraph()
with torch.cuda.graph(graph):
    y = x * 2
    z = y + 1
graph.replay()
torch.cuda.synchronize()
print(json.dumps([torch.cuda.memory_allocated(), torch.cuda.is_current_stream_capturing()]))
"""
    assert answer(code, A100, needed(installed_torch())) == [3 * 4 * MIB, False]


def test_children_see_the_card_and_a_fork_is_sane():
    code = """
import json, os, subprocess, sys, torch
from torch.utils.data import DataLoader, TensorDataset
torch.cuda.init()
x = torch.ones(5, device="cuda", dtype=torch.int64).fill_(3)
loader = DataLoader(TensorDataset(torch.zeros(10, 2)), batch_size=4, num_workers=2)
batches = sum(len(batch[0]) for batch in loader)
child = "import torch; print(torch.cuda.get_device_name(0))"
said = subprocess.check_output([sys.executable, "-c", child], text=True)
print(json.dumps([batches, said.strip()]))
"""
    assert answer(code, A100, needed(installed_torch())) == [10, "NVIDIA A100-SXM4-40GB"]


def test_a_process_that_imported_torch_forks_for_cards_of_its_childrens_own(tmp_path):
    code = """
import json, os, sys, torch
answers = []
for card in sys.argv[1:]:
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ["PROFILER_VIRTUAL_GPU"] = card
        held = torch.ones(1 << 20, device="cuda")
        said = [torch.cuda.get_device_name(0), torch.cuda.memory_allocated()]
        os.write(write, json.dumps(said).encode())
        os._exit(0)
    os.close(write)
    answers.append(json.loads(os.read(read, 1000)))
    os.wait()
print(json.dumps(answers))
"""
    cards = []
    for name in ("T4-16GB", "H100-80GB"):
        cards.append(tmp_path / f"{name}.txt")
        write_card(one(name), cards[-1], tmp_path)
    done, _ = run_python(["-c", code, *map(str, cards)], A100, needed(installed_torch()))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == [["Tesla T4", 4 * MIB], ["NVIDIA H100 80GB HBM3", 4 * MIB]]
    assert len(read_journal(tmp_path).peak_bytes) == 2  # a journal for each child


def test_the_exit_code_is_the_programs_and_nothing_is_left_behind():
    before = dict(os.environ)
    installation = needed(installed_torch())
    code = "import os, sys; print(os.environ['LD_PRELOAD'].count('.so')); sys.exit(7)"
    assert launch.run([sys.executable, "-c", code], A100, installation).exit_code == 7
    crash = "import torch, os; torch.zeros(1, device='cuda'); os.abort()"
    crashed = launch.run([sys.executable, "-c", crash], A100, installation)
    assert crashed.exit_code == -6
    assert list(crashed.journal.peak_bytes.values()) == [402 * MIB]
    assert dict(os.environ) == before
    assert ENVIRONMENT_VARIABLE not in os.environ


def test_a_real_gpu_is_not_hidden_unless_asked(monkeypatch, tmp_path):
    driver = tmp_path / "version"
    driver.touch()
    monkeypatch.setattr(launch, "_REAL_DRIVER", driver)
    installation = needed(installed_torch())
    with pytest.raises(ProfilerError, match="a real GPU is here"):
        launch.environment(A100, tmp_path, installation)
    assert "LD_PRELOAD" in launch.environment(A100, tmp_path, installation, hide_real_gpu=True)


def test_without_a_compiler_it_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ProfilerError, match="finds no C compiler; install one"):
        launch.environment(A100, tmp_path, needed(installed_torch()))
