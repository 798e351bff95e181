"""The mathematical libraries and Triton on the virtual GPU: they succeed, and say what they assume."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

import profiler.gpu.virtual
from profiler.gpu.virtual.compile import compiler, defaults
from profiler.gpu.virtual.elf import read_needs
from profiler.gpu.virtual.launch import preloaded
from profiler.gpu.virtual.libraries import LIBRARIES
from profiler.units import MIB
from tests.support.virtual_gpu import installed_torch, needed, one, run_python

HERE = Path(profiler.gpu.virtual.__file__).parent
STAND_INS, PUBLIC_NAMES = HERE / "stand_ins", HERE / "public_names"
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


def test_no_size_that_nobody_wrote_is_answered():
    """Of every public function whose name speaks of a size, those without a C source refuse."""
    sources = "".join(path.read_text() for path in STAND_INS.rglob("*.c"))
    asks = re.compile(r"\w*(buffer_?size|workspace_?size|sizeinbytes|getsize|estimate|requirements)\w*", re.I)
    refused = 0
    for library in LIBRARIES:
        names = (PUBLIC_NAMES / f"{library.name}.txt").read_text().split()
        text = defaults(library, dict.fromkeys(names, ""))
        for name, result in re.findall(r"^NOT_WRITTEN\((\w+), (\d+)\)$", text, re.MULTILINE):
            if asks.fullmatch(name) and name not in sources:
                assert (result != "0") or library.name == "nvshmem", name
                refused += 1
    assert refused > 150  # of cuSOLVER, cuSPARSE and cuFFT alone


def test_a_size_that_nobody_wrote_is_an_error_and_named():
    code = """
import ctypes, glob, torch
torch.zeros(1, device="cuda")
size = ctypes.c_int(7)
(path,) = {line.split()[-1] for line in open("/proc/self/maps") if "libcusolver.so" in line}
ask = ctypes.CDLL(path).cusolverDnSsygvd_bufferSize
status = ask(None, 1, 1, 8, None, 8, None, 8, None, ctypes.byref(size))
print(status, size.value)
"""
    done, journal = run_python(["-c", code], H100, needed(installed_torch()))
    assert done.stdout.split() == ["9", "7"], done.stderr[-2000:]  # CUSOLVER_STATUS_NOT_SUPPORTED
    assert journal.not_modelled == {"cusolverDnSsygvd_bufferSize": 1}


def test_a_library_with_a_cuda_runtime_of_its_own_is_named(tmp_path):
    """As a static libcudart asks the driver; cuDNN's does no harm."""
    (tmp_path / "asks.c").write_text(
        "int cuGetExportTable(const void **, const void *);"
        'int ask(void) { const void *table; return cuGetExportTable(&table, "id"); }'
    )
    for name in ("libown_kernels.so", "libcudnn_some.so.9"):
        flags = ("-shared", "-fPIC", "-o", tmp_path / name, tmp_path / "asks.c")
        subprocess.run([compiler(), *flags], check=True)
    code = f"""
import ctypes, torch
torch.zeros(1, device="cuda")
for name in ("libown_kernels.so", "libcudnn_some.so.9"):
    assert ctypes.CDLL("{tmp_path}/" + name).ask() == 801
    ctypes.CDLL("{tmp_path}/" + name).ask()
"""
    done, journal = run_python(["-c", code], H100, needed(installed_torch()))
    assert done.returncode == 0, done.stderr[-2000:]
    words = "has a CUDA runtime of its own, which finds no GPU"
    assert journal.not_modelled == {f"libown_kernels.so {words}": 2}
    assert journal.harmless == {f"libcudnn_some.so.9 {words}: its plans need none": 2}


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
def test_the_driver_is_linked_where_triton_looks_for_it(tmp_path):
    """Triton 3.2 compiles a module with -lcuda, in the folder of TRITON_LIBCUDA_PATH."""
    program = tmp_path / "program"
    variables = preloaded(needed(installed_torch()))
    subprocess.run(
        [compiler(), "-xc", "-", "-o", program, f"-L{variables['TRITON_LIBCUDA_PATH']}", "-lcuda"],
        input="int cuInit(unsigned); int main(void) { return cuInit(0); }",
        env=os.environ | {"LIBRARY_PATH": ""},
        text=True,
        check=True,
    )
    assert "libcuda.so.1" in read_needs(program).libraries
    assert "libcuda.so" not in {Path(path).name for path in variables["LD_PRELOAD"].split(":")}
    done = subprocess.run([program], env=os.environ | variables, check=False)
    assert done.returncode == 100  # CUDA_ERROR_NO_DEVICE: no card is named


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

# What Triton asks of each kernel that it has compiled.
import ctypes, os, pathlib, sys
driver, registers = ctypes.CDLL("libcuda.so.1"), {}
for path in pathlib.Path(os.environ["TRITON_CACHE_DIR"]).rglob("*.cubin"):
    module, function, count = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_int()
    assert not driver.cuModuleLoadData(ctypes.byref(module), path.read_bytes())
    assert not driver.cuModuleGetFunction(ctypes.byref(function), module, path.stem.encode())
    assert not driver.cuFuncGetAttribute(ctypes.byref(count), 4, function)
    registers[str(path)] = count.value
print(json.dumps(registers), flush=True)
os._exit(0)
"""
    caches = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "i"), "TRITON_CACHE_DIR": str(tmp_path / "t")}
    done, journal = run_python(["-c", code], H100, needed(installed_torch()), **caches)
    assert done.returncode == 0, done.stderr[-2000:]
    growth, registers = map(json.loads, done.stdout.splitlines())
    assert growth == 4 * MIB  # one kernel: eagerly there are two temporaries more
    assert registers
    for path, count in registers.items():
        assert count == registers_in(Path(path)) != 32
    assert not [text for text in journal.assumed if "metadata cannot be read" in text]


def registers_in(cubin: Path) -> int:
    """EIATTR_REGCOUNT of the one kernel: format 4, attribute 0x2f, 8 bytes: the symbol and its registers."""
    with cubin.open("rb") as file:
        info = ELFFile(file).get_section_by_name(".nv.info").data()
    at = info.index(b"\x04\x2f\x08\x00")
    return int.from_bytes(info[at + 8 : at + 12], "little")
