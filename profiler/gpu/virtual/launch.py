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


def check_no_real_gpu() -> None:
    """Raise ProfilerError where a real GPU is here: a program never sees both."""
    if _REAL_DRIVER.exists():
        raise ProfilerError(
            "a real GPU is here; run on it, or ask for it to be hidden behind the virtual one"
        )


def preloaded(
    installation: Installation | None = None, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables, over those that are `inherited`, of a process that has the stand-ins and no GPU yet.

    Raises ProfilerError where there can be no stand-ins.
    """
    inherited = os.environ if inherited is None else inherited
    compiled = stand_ins(installation or find_torch())
    libraries = [*map(str, compiled), *inherited.get("LD_PRELOAD", "").split(":")]
    return {
        "LD_PRELOAD": ":".join(path for path in libraries if path),
        "TRITON_LIBCUDA_PATH": str(compiled[0].parent),
    }


def card_variables(
    gpus: VirtualGPUs, folder: Path, installation: Installation | None = None
) -> dict[str, str]:
    """The variables that show a process with the stand-ins its GPUs; see `environment`."""
    installation = installation or find_torch()
    card = folder / "card.txt"
    write_card(gpus, card, folder, installation.cudnn, installation.cudnn_version)
    return {ENVIRONMENT_VARIABLE: str(card)}


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
    if not hide_real_gpu:
        check_no_real_gpu()
    installation = installation or find_torch()
    variables = dict(os.environ if inherited is None else inherited)
    variables |= preloaded(installation, variables) | card_variables(gpus, folder, installation)
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
