"""`profiler on` where something is missing or breaks: one line, the right exit code, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.gpu.cards import find_gpu
from profiler.gpu.device_used import in_total, process_terms
from profiler.trace.load import load
from profiler.units import format_bytes
from tests.support.virtual_gpu import REPOSITORY, installed_torch, needed

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
KEPT = "import torch; kept = torch.zeros(1 << 20, device='cuda')\n"


def on(folder: Path, *command: str, environment: dict[str, str] | None = None, options: tuple[str, ...] = ()):
    """`profiler on` for a command, with a folder of its own for temporary files."""
    (folder / "temporary").mkdir()
    variables = {**ENVIRONMENT, "TMPDIR": str(folder / "temporary"), **(environment or {})}
    done = subprocess.run(
        [sys.executable, "-m", "profiler", "on", "A100-40GB", *options, "--", *command],
        env=variables,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    # What the program's own libraries keep for later runs is theirs.
    left = [path.name for path in (folder / "temporary").iterdir()]
    assert not [name for name in left if name.startswith(("virtual_gpu", "tmp"))]
    return done


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_no_compiler(tmp_path):
    needed(installed_torch())
    environment = {"PATH": "/nonexistent", "CC": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = on(tmp_path, sys.executable, "-c", KEPT, environment=environment)
    refused(done, "no C compiler")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("version", "cuda", "words"),
    [
        ("2.14.1+cpu", "None", "no CUDA build"),
        ("2.99.0+cu130", "'13.0'", "is not known to the virtual GPU"),
        ("1.13.1+cu117", "'11.7'", "is not known to the virtual GPU"),
    ],
)
def test_a_torch_that_it_cannot_run(tmp_path, version, cuda, words):
    library = tmp_path / "path" / "torch" / "lib" / "libtorch_cuda.so"
    library.parent.mkdir(parents=True)
    if cuda != "None":
        library.touch()
    (tmp_path / "path" / "torch" / "__init__.py").touch()
    (tmp_path / "path" / "torch" / "version.py").write_text(f"__version__ = '{version}'\ncuda = {cuda}\n")
    environment = {"PYTHONPATH": f"{tmp_path / 'path'}{os.pathsep}{REPOSITORY}"}
    refused(on(tmp_path, sys.executable, "-c", KEPT, environment=environment), version, words)


@pytest.mark.parametrize("flag", ["-I", "-E", "-S"])
def test_a_python_that_loads_nothing_from_outside(tmp_path, flag):
    refused(on(tmp_path, sys.executable, flag, "-c", KEPT), f"without {flag}")


def test_a_crash_inside_the_program(tmp_path):
    needed(installed_torch())
    code = KEPT + "import os; os.kill(os.getpid(), 11)"
    done = on(tmp_path, sys.executable, "-c", code, options=("--json",))
    said = json.loads(done.stdout)
    assert done.returncode == said["exit_code"] == 128 + signal.SIGSEGV
    assert said["processes"][0]["peak_allocated_bytes"] == 4 << 20


def test_files_are_written_though_nobody_reads_what_is_printed(tmp_path):
    needed(installed_torch())
    command = [sys.executable, "-m", "profiler", "on", "A100-40GB", "--save", "run.parquet"]
    reading, writing = os.pipe()
    os.close(reading)  # as `head` does when it has enough
    subprocess.run(
        [*command, "--", sys.executable, "-c", KEPT],
        env=ENVIRONMENT,
        cwd=tmp_path,
        stdout=writing,
        check=False,
    )
    os.close(writing)
    assert load(tmp_path / "run.parquet").peak_allocated_bytes == 4 << 20


def test_a_folder_where_a_file_belongs_is_refused_before_the_program_runs(tmp_path):
    needed(installed_torch())
    done = on(tmp_path, sys.executable, "-c", "print('ran')", options=("--report", "."))
    refused(done, "is a folder: name a file in it")


def test_a_program_without_the_gpu(tmp_path):
    needed(installed_torch())
    done = on(tmp_path, sys.executable, "-c", "raise SystemExit(3)")
    assert done.returncode == 3
    assert "No process of this program used the virtual" in done.stdout


def test_a_process_past_the_caching_allocator_is_told_of(tmp_path):
    """cudaMallocAsync's blocks are the driver's: how much the process took is known, and not for what."""
    needed(installed_torch())
    code = "import torch; kept = torch.empty(64 << 20, dtype=torch.uint8, device='cuda')"
    environment = {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}
    done = on(tmp_path, sys.executable, "-c", code, environment=environment)
    assert done.returncode == 0
    context_bytes = in_total(process_terms(find_gpu("A100-40GB"))).typical_bytes
    assert f" took {format_bytes(context_bytes + (64 << 20))} of GPU 0" in done.stdout
    assert "No process of this program" not in done.stdout


def test_stand_ins_are_preloaded_into_the_program_alone(tmp_path):
    needed(installed_torch())
    code = """
import os
of_its_parent = open(f"/proc/{os.getppid()}/environ").read()
for variable in ("LD_PRELOAD", "PROFILER_VIRTUAL_GPU"):
    print(variable in os.environ, variable in of_its_parent)
"""
    assert on(tmp_path, sys.executable, "-c", code).stdout.startswith("True False\nTrue False\n")


def test_the_torch_is_that_of_the_programs_python(tmp_path):
    needed(installed_torch())
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    refused(on(tmp_path, str(python), "-c", KEPT), str(python), "has no torch")
    (tmp_path / "temporary").rmdir()
    packages = next(python.parents[1].glob("lib/python*/site-packages"))
    (packages / "torch").mkdir()
    (packages / "torch" / "__init__.py").touch()
    (packages / "torch" / "version.py").write_text("__version__ = '2.99.0+cu130'\ncuda = '13.0'\n")
    (packages / "torch" / "lib").mkdir()
    (packages / "torch" / "lib" / "libtorch_cuda.so").touch()
    refused(on(tmp_path, str(python), "-c", KEPT), "torch 2.99.0", "is not known")
