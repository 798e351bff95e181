"""The same command again, on a virtual GPU: its processes find a CUDA device, and measure it as any other."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from profiler.gpu.cards import GPU
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.launch import run


def again_on_virtual_gpu(words: Sequence[str], gpu: GPU) -> int:
    """The exit code of `profiler WORDS` in a process that has a virtual `gpu`; prints what was assumed.

    Raises ProfilerError where no virtual GPU can be had.
    """
    finished = run([sys.executable, "-m", "profiler", *words], VirtualGPUs(gpu))
    for what, texts in (
        ("called, not modelled", finished.journal.not_modelled),
        ("assumed", finished.journal.assumed),
    ):
        for text in texts:
            print(f"{what}: {text}")
    return finished.exit_code
