"""The stand-ins in C, driven by a C program under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from profiler.gpu.cards import find_gpu
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE, VirtualGPUs, write_card
from profiler.gpu.virtual.compile import compile_all, compiler
from profiler.gpu.virtual.journal import read_journal
from profiler.units import MIB
from tests.support.virtual_gpu import installed_torch, needed

DRIVER = Path(__file__).with_name("stand_ins_driver.c")
SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g", "-O1")
WARNINGS = ("-Werror",)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The driving program, linked with the stand-ins of the installed torch, all with sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    names = compile_all(needed(installed_torch()), folder, SANITIZERS + WARNINGS)
    wanted = [
        name
        for name in names
        if name.startswith(("libvirtual", "libcudart", "libcuda.", "libcusolver", "libnccl"))
    ]
    path = folder / "driver"
    subprocess.run(
        [compiler(), "-std=gnu11", *SANITIZERS, "-o", path, DRIVER, f"-L{folder}", f"-Wl,-rpath,{folder}"]
        + [f"-l:{name}" for name in wanted]
        + ["-lpthread"],
        check=True,
    )
    return path


def test_memory_streams_threads_and_forks(program: Path, tmp_path: Path) -> None:
    gpu = find_gpu("A100-40GB").with_memory(1500 * MIB, "small", "for this test")
    write_card(
        VirtualGPUs(gpu, devices=2, context_bytes=300 * MIB, nccl_bytes=100 * MIB),
        tmp_path / "card.txt",
        tmp_path,
    )
    environment = {
        **os.environ,
        ENVIRONMENT_VARIABLE: str(tmp_path / "card.txt"),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PROFILER_EVENTS": str(tmp_path),  # what it writes of the driver's memory, under the sanitizers too
    }
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "whole\n"), done.stderr
    journal = read_journal(tmp_path)
    assert journal.not_modelled == {"cudaGraphExecUpdate": 13}  # 3 here, 10 in forked children
    assert len({entry.pid for entry in journal.entries if entry.text == "cudaGraphExecUpdate"}) == 11
    assert journal.assumed["cusolverDnSgetrf_bufferSize: the matrices whole"] == 1
    assert max(journal.peak_bytes.values()) == (300 + 602) * MIB


def test_without_a_card_there_is_no_device(program: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != ENVIRONMENT_VARIABLE}
    done = subprocess.run([program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not !cudaMemGetInfo" in done.stderr
