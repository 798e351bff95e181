"""The mathematical libraries and Triton on the virtual GPU: they succeed, and say what they assume."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace

import pytest

from profiler.units import MIB
from tests.support.virtual_gpu import installed_torch, needed, one, run_python

H100 = replace(one("H100-80GB"), context_bytes=500 * MIB)


def test_factorizations_succeed_and_their_workspaces_are_named():
    code = """
import json, torch
a = torch.eye(64, device="cuda")
for run in (torch.linalg.inv, torch.linalg.qr, torch.linalg.svd, torch.linalg.eigh, torch.linalg.cholesky):
    run(a)
torch.cuda.reset_peak_memory_stats()
before = torch.cuda.memory_allocated()
torch.fft.fft2(torch.empty(8, 100, 100, dtype=torch.complex64, device="cuda"))
print(json.dumps(torch.cuda.max_memory_allocated() - before))
"""
    done, journal = run_python(["-c", code], H100, needed(installed_torch()))
    assert done.returncode == 0, done.stderr[-2000:]
    assert not journal.not_modelled
    named = " ".join(journal.assumed)
    for routine in ("getrf_bufferSize", "geqrf_bufferSize", "potrf_bufferSize", "the work area of an FFT"):
        assert routine in named
    # input, output and work area, a complex number an element, each in units of 512 bytes
    assert json.loads(done.stdout) == 3 * 640_000


def test_a_collective_of_one_rank_carries_its_values():
    code = """
import json, os, torch, torch.distributed as dist
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
x = torch.tensor([3, 1, 4], device="cuda")
gathered = [torch.empty_like(x)]
dist.all_gather(gathered, x)
dist.all_reduce(x)
print(json.dumps([x.tolist(), gathered[0].tolist()]))
dist.destroy_process_group()
"""
    done, journal = run_python(["-c", code], H100, needed(installed_torch()))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [[3, 1, 4], [3, 1, 4]]
    assert not any("NCCL" in text for text in journal.assumed)  # one rank has no peer to hold buffers for


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_compiled_code_allocates_its_results_only(tmp_path):
    code = """
import json, torch
@torch.compile
def run(x):
    return (torch.relu(x) * 2 + 1).sin()
x = torch.zeros(1 << 20, device="cuda")
run(x)
before = torch.cuda.memory_allocated()
torch.cuda.reset_peak_memory_stats()
y = run(x)
print(json.dumps(torch.cuda.max_memory_allocated() - before))
"""
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "i"), "TRITON_CACHE_DIR": str(tmp_path / "t")}
    done, _ = run_python(["-c", code], H100, needed(installed_torch()), **caches)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == 4 * MIB  # one kernel: eagerly there are two temporaries more
