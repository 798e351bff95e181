"""Rows of one card on the virtual GPU, each in a process of its own."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rows import Setting

from profiler.gpu.cards import GPUS
from profiler.gpu.device_used import process_terms
from profiler.gpu.virtual.card_file import VirtualGPUs
from profiler.gpu.virtual.installation import Installation
from profiler.gpu.virtual.launch import environment

PROGRAM = Path(__file__).parent / "xmem_program.py"


@dataclass(frozen=True)
class Answer:
    """Peaks of the allocator, and what comes with the first kernels and library handles."""

    allocated_bytes: int
    reserved_bytes: int
    libraries_bytes: int
    out_of_memory: bool

    @property
    def nvml_less_first_bytes(self) -> int:
        """What NVML's reading grows by once the CUDA context is there."""
        return self.reserved_bytes + self.libraries_bytes


def run_settings(
    settings: Sequence[Setting], installation: Installation, packages: Path
) -> Iterator[tuple[Setting, Answer | None]]:
    """Each setting with its answer as it comes, None where its program failed (said on stderr). All are of
    one card.
    """
    first = settings[0]
    gpu = replace(GPUS[first.card], memory_bytes=first.memory_bytes, memory_low_bytes=first.memory_bytes)
    libraries = next(term for term in process_terms(gpu) if term.name == "kernels and library handles")
    with tempfile.TemporaryDirectory() as name:
        inherited = os.environ | {"PYTHONPATH": str(packages)}
        variables = environment(VirtualGPUs(gpu), Path(name), installation, inherited=inherited)
        asked = "".join(f"{s.model} {s.optimizer} {s.batch} {s.zero_grad_mode}\n" for s in settings)
        with subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(asked)
            process.stdin.close()
            for setting in settings:
                said = json.loads(process.stdout.readline() or '{"error": "the program ended"}')
                if "error" in said:
                    print(f"{setting}: {said['error']}", file=sys.stderr)
                    yield setting, None
                    continue
                yield (
                    setting,
                    Answer(
                        said["allocated_bytes"],
                        said["reserved_bytes"],
                        libraries.typical_bytes,
                        said["out_of_memory"],
                    ),
                )
