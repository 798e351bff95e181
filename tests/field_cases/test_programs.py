"""Programs that users wrote run on both engines, and take the same; the bytes are those that are reported."""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.support.virtual_gpu import installed_torch, needed

PROGRAMS = Path(__file__).parent / "programs"
PLAIN_STEP = 18_355_712  # of cuda_calls.plain: what its calls beside the step must not change
# The peak of each function of a program. By hand where it is small; see docs/field_cases.md.
PEAKS = {
    "nan_checks": 18_363_904,
    "to_host": 17_068_032,
    "cuda_calls": PLAIN_STEP,
    "counters": 1_648_641_024,
}
SAME = ("nan_checks", "to_host", "cuda_calls", "counters", "optimizers")


@pytest.fixture
def cuda_build():
    """Skips, with the reason, where the installed torch cannot run on a virtual GPU."""
    needed(installed_torch())


def each(program, *, simulated=None, names=(), gpu="A100-40GB", environment=None):
    """What each function of a program took, by name."""
    words = [sys.executable, "-m", "tests.field_cases.each", str(PROGRAMS / f"{program}.py"), *names]
    words += ["--simulated", simulated] if simulated else []
    if not simulated:
        words = [sys.executable, "-m", "profiler", "on", gpu, "--json", "--", *words]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **(environment or {})},
        timeout=900,
    )
    lines = (done.stdout + done.stderr).splitlines()
    found = [json.loads(line) for line in lines if line.startswith('{"name"')]
    assert found, done.stderr
    assert not any(one["error"] for one in found), found
    said = [line for line in lines if line and line.split()[0].isidentifier() and "=" in line]
    return {one["name"]: one for one in found}, said


@cache
def on_the_simulated_gpu(program):
    return each(program, simulated="A100-40GB")[0]


@pytest.mark.parametrize("program", [*SAME, "recurrent", "data_dependent"])
def test_ordinary_programs_run_on_the_simulated_gpu(program):
    took = on_the_simulated_gpu(program)
    if program in PEAKS:
        assert {one["peak_allocated_bytes"] for one in took.values()} == {PEAKS[program]}
    if program == "data_dependent":  # every row is chosen: 4096 x 512 floats, and they are copied
        assert took["boolean_mask"]["peak_allocated_bytes"] > 2 * 4096 * 512 * 4


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize("program", SAME)
def test_the_virtual_gpu_says_the_same(program):
    virtual, _ = each(program)
    assert virtual == on_the_simulated_gpu(program)


@pytest.mark.usefixtures("cuda_build")
def test_loops_of_accelerate_take_what_their_optimizer_step_does():
    """Weights, gradients, two states and denominators, cuBLAS workspaces of two threads, a batch, a loss."""
    pytest.importorskip("accelerate")
    weights_bytes = 4 * (256 * 1024 + 1024 + 1024 * 256 + 256)
    peak_bytes = 5 * weights_bytes + 2 * 8_519_680 + 8 * 256 * 4 + 512
    virtual, _ = each("accelerated")
    assert {one["peak_allocated_bytes"] for one in virtual.values()} == {peak_bytes}
    assert virtual == on_the_simulated_gpu("accelerated")


@pytest.mark.usefixtures("cuda_build")
@pytest.mark.parametrize(
    ("name", "gpu", "said"),
    [
        ("linear_that_leaks", "A10-24GB", "left_bytes=8519680"),
        ("used_and_peaked", "A100-80GB", "mib=['0/1024', '256/512', '0/512']"),
        ("litgpt_cross_entropy", "T4-16GB", "peak_mb=2097"),
        ("megatron_attention", "A100-80GB", "more_mib=[2048.0, 1024.0, 1536.0, 24.0]"),
    ],
)
def test_reports_of_others_come_out(name, gpu, said):
    _, words = each("reports", names=[name], gpu=gpu)
    assert any(line.startswith(name) and said in line for line in words), words


@pytest.mark.usefixtures("cuda_build")
def test_a_reported_growth_of_reserved_memory():
    """pytorch/pytorch#123548, with the settings of the report."""
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:20,expandable_segments:True"}
    _, said = each("allocator", names=["two_large_and_one_small"], environment=settings)
    assert said == ["two_large_and_one_small reserved_mib=[220, 2980, 5760, 8520, 11300, 14060]"]
