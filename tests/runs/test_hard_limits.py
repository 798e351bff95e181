"""Runs and files under limits that no run should meet: each ends in a result or one line, and at once."""

import os
import pickle
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from profiler.device import CPU, Device
from profiler.records import table as records
from profiler.runs import execute
from profiler.runs.execute import run_in_fresh_process
from profiler.runs.processes import Died
from profiler.runs.run_settings import RunSettings
from profiler.workload import Workload
from tests.support.mutations import snapshot

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


@pytest.fixture
def recorded(tmp_path):
    """A snapshot in a folder of its own."""
    folder = tmp_path / "recorded"
    folder.mkdir()
    (folder / "run.pickle").write_bytes(pickle.dumps(snapshot(random.Random(0))))
    return folder / "run.pickle"


def test_a_full_disk_keeps_what_was_there(tmp_path, recorded):
    page = tmp_path / "out" / "page.html"
    page.parent.mkdir()
    page.write_text("of yesterday")
    code, lines = profiler("report", recorded, "-o", page, limits=[(resource.RLIMIT_FSIZE, 4096)])
    assert (code, len(lines)) == (1, 1)
    assert "File too large" in lines[0]
    assert [path.name for path in page.parent.iterdir()] == ["page.html"]
    assert page.read_text() == "of yesterday"


def test_a_disk_that_fills_while_runs_are_recorded_is_one_line(tmp_path):
    words = ("run", "mixed_precision", "--device", "cpu", "--size", "small", "--results", tmp_path)
    code, lines = profiler(*words, limits=[(resource.RLIMIT_FSIZE, 8192)])
    assert (code, len(lines)) == (1, 1)
    assert "cannot write" in lines[0]
    assert [path for path in tmp_path.rglob("*") if path.is_file() and not path.name.endswith(".lock")] == []


def test_a_folder_that_is_read_only_is_one_line(tmp_path, recorded):
    folder = Path("/sys/kernel")  # in which not even root makes files
    if os.geteuid():
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)
    code, lines = profiler("report", recorded, "-o", folder / "page.html")
    assert (code, len(lines)) == (1, 1)
    assert f"cannot write to {folder}" in lines[0]
    code, lines = profiler("run", "mixed_precision", "--device", "cpu", "--results", folder / "results")
    assert (code, len(lines)) == (1, 1)
    assert "choose another folder" in lines[0]


def test_a_run_that_is_terminated_keeps_its_records_and_leaves_no_process(tmp_path):
    command = [sys.executable, "-m", "profiler", "run", "activation_scaling", "--device", "cpu"]
    command += ["--size", "small", "--results", str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
    )
    path = tmp_path / "cpu-small" / "activation_scaling" / "records.parquet"
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    said = process.communicate(timeout=30)[1].decode()
    assert len(said.splitlines()) <= 1
    assert len(records.read(path)) > 0
    deadline = time.monotonic() + 20
    while (left := _in_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []


def _in_session(session):
    """The processes of a session that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its_session = path.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(its_session) == session and state != "Z":
            found.append(path.parent.name)
    return found
