"""Programs on the virtual GPU, with the torch that a test names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.cards import find_gpu
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.installation import Installation, find_torch
from profiler.gpu.virtual.journal import Journal, read_journal
from profiler.gpu.virtual.launch import environment

REPOSITORY = Path(__file__).parents[2]


@lru_cache
def torch_of_version(version: tuple[int, int]) -> Installation | str:
    """A CUDA build of torch of that version, or why there is none.

    It is the installed one, or stands in the folder that PROFILER_TORCH_2_6, PROFILER_TORCH_2_11, ... names
    (pip install --no-deps --target FOLDER torch==2.6.0).
    """
    major, minor = version
    variable = f"PROFILER_TORCH_{major}_{minor}"
    folders = (Path(os.environ[variable]),) if variable in os.environ else ()
    try:
        installation = find_torch(folders)
    except ProfilerError as error:
        return str(error)
    if installation.version.split(".")[:2] != [str(major), str(minor)]:
        return f"torch {major}.{minor} is not installed; {variable} names a folder that has it"
    return installation


@lru_cache
def installed_torch() -> Installation | str:
    """The installed torch, or why the virtual GPU cannot run it."""
    try:
        return find_torch()
    except ProfilerError as error:
        return str(error)


def needed(installation: Installation | str) -> Installation:
    """The installation; skips the test, with the reason, if there is none."""
    if isinstance(installation, str):
        pytest.skip(installation)
    return installation


def run_python(
    arguments: Sequence[str],
    gpus: VirtualGPUs,
    installation: Installation,
    timeout_seconds: float = 300,
    **variables: str,
) -> tuple[subprocess.CompletedProcess[str], Journal]:
    """This Python with that torch on the virtual GPUs; its output is captured."""
    paths = [str(installation.folder.parent), str(REPOSITORY)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inherited = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **variables}
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment(gpus, folder, installation, inherited=inherited),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
            check=False,
        )
        return done, read_journal(folder)


def answer(code: str, gpus: VirtualGPUs, installation: Installation, **variables: str) -> object:
    """What the last line of the code's output says, as JSON. Raises AssertionError if the code fails."""
    # The end is abrupt: torch 2.14's autograd thread may still let go of Python objects while the interpreter
    # ends, and abort.
    code += "\nimport os, sys; sys.stdout.flush(); os._exit(0)"
    done, _ = run_python(["-c", code], gpus, installation, **variables)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def one(gpu: str) -> VirtualGPUs:
    """A machine with one GPU of that name."""
    return VirtualGPUs(find_gpu(gpu))
