"""Runs and files under limits that no run should meet: each ends in a result or one line, and at once."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.device import CPU, Device
from profiler.runs import execute
from profiler.runs.execute import run_in_fresh_process
from profiler.runs.processes import Died
from profiler.runs.run_settings import RunSettings
from profiler.workload import Workload

ROOT = Path(__file__).resolve().parents[2]
MIB = 1 << 20
CPU_HERE = Device(CPU)


def profiler(*words, limits=(), **options):
    """A command under limits, as (resource, bytes); its exit code and the lines of its standard error."""

    def limit():
        for which, size_bytes in (*limits, (resource.RLIMIT_CORE, 0)):
            resource.setrlimit(which, (size_bytes, size_bytes))

    ended = subprocess.run(
        [sys.executable, "-m", "profiler", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )
    return ended.returncode, ended.stderr.splitlines()


@pytest.mark.parametrize(
    ("model", "limit_bytes"), [("bert-tiny", 1 * MIB), ("resnet-tiny", 1 * MIB), ("resnet-tiny", 8 * MIB)]
)
def test_a_limit_that_libraries_do_not_expect_is_out_of_memory(model, limit_bytes):
    run = run_in_fresh_process(Workload(model, 2, 64), CPU_HERE, RunSettings(limit_bytes=limit_bytes))
    assert run.out_of_memory is not None
    assert run.out_of_memory.message


def test_a_limit_above_what_a_run_takes_lets_it_run():
    # Parameters, gradients and the states of Adam of 0.8 million numbers take 13 MiB.
    run = run_in_fresh_process(Workload("bert-tiny", 2, 64), CPU_HERE, RunSettings(limit_bytes=40 * MIB))
    assert run.out_of_memory is None


@pytest.mark.parametrize(
    ("message", "number", "limit_bytes", "recorded"),
    [
        ("x failed: y (exit code -11)", signal.SIGSEGV, MIB, True),
        ("x failed: y (exit code -11)", signal.SIGSEGV, None, False),
        ("x failed: libgomp: Thread creation failed: Resource temporarily unavailable", 0, MIB, True),
        ("x failed: KeyError: 'h'", 0, MIB, False),
        ("x was killed by the operating system", signal.SIGKILL, None, True),
    ],
)
def test_what_ends_a_process_is_out_of_memory_where_memory_was_short(
    monkeypatch, message, number, limit_bytes, recorded
):
    def die(*arguments, **options):
        raise Died(message, number)

    monkeypatch.setattr(execute, "in_fresh_process", die)
    arguments = (Workload("mlp-tiny", 4), CPU_HERE, RunSettings(limit_bytes=limit_bytes))
    if recorded:
        assert run_in_fresh_process(*arguments).out_of_memory is not None
    else:
        with pytest.raises(Died):
            run_in_fresh_process(*arguments)


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "gpt2-tiny", "--length", "64"),
        ("fit", "gpt2-tiny", "--length", "64", "--gpu", "A100-40GB"),
        ("run", "activation_scaling", "--size", "small", "--results"),
    ],
)
def test_too_little_address_space_for_torch_is_one_line(tmp_path, words):
    code, lines = profiler(
        *words, *([tmp_path] if "run" in words else []), limits=[(resource.RLIMIT_AS, 10**9)]
    )
    assert code == 1
    assert len(lines) == 1
    assert "memory" in lines[0].lower() or "failed to map segment" in lines[0]
