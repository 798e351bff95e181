"""A program on the virtual GPU: in a process of its own, the only one that has the stand-ins."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import ProfilerError
from profiler.gpu.virtual import inside
from profiler.gpu.virtual.card_file import ENVIRONMENT_VARIABLE, VirtualGPUs, write_card
from profiler.gpu.virtual.compile import stand_ins
from profiler.gpu.virtual.installation import Installation, find_torch
from profiler.gpu.virtual.journal import Journal, read_journal

_REAL_DRIVER = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finished:
    """What came of a program: its exit code (negative: the signal that ended it) and the journal."""

    exit_code: int
    journal: Journal


def environment(
    gpus: VirtualGPUs,
    folder: Path,
    installation: Installation | None = None,
    *,
    hide_real_gpu: bool = False,
    inherited: Mapping[str, str] | None = None,
    packages: Sequence[Path] = (inside.VALUES,),
) -> dict[str, str]:
    """The environment of a process, and of its children, that sees the virtual GPUs.

    folder: an empty folder of the caller's, which gets the card's file and the journal of each process.
    inherited: what the environment is otherwise; this process's own by default.
    packages: what is loaded into each Python process (profiler.gpu.virtual.inside).

    Raises ProfilerError where no virtual GPU can be had, and where a real one is there, unless
    `hide_real_gpu`: a program never sees both.
    """
    if _REAL_DRIVER.exists() and not hide_real_gpu:
        raise ProfilerError(
            "a real GPU is here; run on it, or ask for it to be hidden behind the virtual one"
        )
    installation = installation or find_torch()
    compiled = stand_ins(installation)
    card = folder / "card.txt"
    write_card(gpus, card, folder, installation.cudnn, installation.cudnn_version)
    variables = dict(os.environ if inherited is None else inherited)
    preloaded = [*map(str, compiled), *variables.get("LD_PRELOAD", "").split(":")]
    variables["LD_PRELOAD"] = ":".join(path for path in preloaded if path)
    variables["TRITON_LIBCUDA_PATH"] = str(compiled[0].parent)
    variables[ENVIRONMENT_VARIABLE] = str(card)
    return variables | inside.variables_for(variables, folder, packages)


def run(
    command: Sequence[str],
    gpus: VirtualGPUs,
    installation: Installation | None = None,
    *,
    hide_real_gpu: bool = False,
    inherited: Mapping[str, str] | None = None,
) -> Finished:
    """Run a command to its end on the virtual GPU, its output where this process's goes.

    Raises ProfilerError as `environment` does, and where the command cannot be started.
    """
    with tempfile.TemporaryDirectory(prefix="virtual_gpu.") as name:
        folder = Path(name)
        variables = environment(gpus, folder, installation, hide_real_gpu=hide_real_gpu, inherited=inherited)
        try:
            done = subprocess.run(list(command), env=variables, check=False)
        except OSError as error:
            raise ProfilerError(f"cannot run {command[0]}: {error.strerror}") from error
        return Finished(done.returncode, read_journal(folder))
