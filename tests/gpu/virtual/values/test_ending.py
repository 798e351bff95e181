"""A program that ends right after its backward pass: without the rest at its end, every second one aborts."""

from __future__ import annotations

import subprocess
import sys

from profiler.gpu.virtual import launch, values
from tests.support.virtual_gpu import installed_torch, needed, one

RUNS = 6


def test_the_exit_code_is_the_programs(tmp_path):
    code = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("ending", {values.__path__[0] + "/ending.py"!r})
ending = importlib.util.module_from_spec(spec)
spec.loader.exec_module(ending)
ending.rest_before_the_end()
layer = torch.nn.Linear(64, 64).cuda()
layer(torch.ones(8, 64, device="cuda")).sum().backward()
"""
    # Nothing else is loaded into it, which would take time after the backward pass.
    environment = launch.environment(one("A100-40GB"), tmp_path, needed(installed_torch()), packages=())
    for _ in range(RUNS):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
