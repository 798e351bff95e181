"""The installed torch, read from its files: importing it would load its libraries."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from profiler.errors import ProfilerError

CUDA_MAJORS = (12, 13)
OLDEST, NEWEST = (2, 6), (2, 14)


@dataclass(frozen=True)
class Installation:
    """A CUDA build of torch. `folder` is the package's own; `version` as in "2.14.1+cu130"."""

    folder: Path
    version: str
    cuda_major: int

    @property
    def libraries(self) -> tuple[Path, ...]:
        """The shared libraries of torch itself."""
        return tuple(sorted((self.folder / "lib").glob("lib*.so*")))

    @property
    def cudnn(self) -> Path | None:
        """The cuDNN of the nvidia-cudnn package beside torch, or None."""
        found = self.folder.parent / "nvidia" / "cudnn" / "lib" / "libcudnn.so.9"
        return found if found.is_file() else None

    @cached_property
    def cudnn_version(self) -> int:
        """The cuDNN that torch's own package asks for, as cudnnGetVersion counts (92400 is 9.24.0); 0: not
        said.
        """
        for metadata in self.folder.parent.glob(f"torch-{self.version.split('+')[0]}*.dist-info/METADATA"):
            asked = re.search(r"nvidia-cudnn-cu\d+\s*\(?==\s*(\d+)\.(\d+)\.(\d+)", metadata.read_text())
            if asked:
                major, minor, patch = (int(number) for number in asked.groups())
                return major * 10_000 + minor * 100 + patch
        return 0


def find_torch(folders: tuple[Path, ...] = ()) -> Installation:
    """The CUDA build of torch in the first of `folders` that has a torch, or on this Python's path.

    Raises ProfilerError, with what is used instead, where there is none that a virtual GPU can run.
    """
    if sys.platform != "linux":
        raise ProfilerError("the virtual GPU needs Linux; the simulated GPU runs on this system")
    if platform.machine() not in ("x86_64", "aarch64"):
        raise ProfilerError(f"the virtual GPU knows no {platform.machine()}; the simulated GPU runs here")
    folder = next((path / "torch" for path in folders if (path / "torch" / "version.py").is_file()), None)
    if folder is None:
        found = importlib.util.find_spec("torch")
        if found is None or not found.submodule_search_locations:
            raise ProfilerError("torch is not installed; the virtual GPU runs the installed torch")
        folder = Path(found.submodule_search_locations[0])
    return read_installation(folder)


def torch_of(command: Sequence[str]) -> Installation:
    """The torch that a command finds: that of the Python it names, or of this Python's path.

    Raises ProfilerError as `find_torch` does, and where that Python has no torch.
    """
    found = shutil.which(command[0]) if re.fullmatch(r"python[\d.]*", Path(command[0]).name) else None
    if found is None or Path(found).absolute() == Path(sys.executable).absolute():
        return find_torch()
    code = (
        "import importlib.util as u; s = u.find_spec('torch'); "
        "print(*(s.submodule_search_locations if s else []))"
    )
    said = subprocess.run([found, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    if not said:
        raise ProfilerError(f"{found} has no torch; the virtual GPU runs the torch of the program's Python")
    return find_torch((Path(said).parent,))


def read_installation(folder: Path) -> Installation:
    """What the torch package in `folder` is. Raises ProfilerError as `find_torch` does."""
    text = (folder / "version.py").read_text()
    version = _assigned(text, "__version__")
    cuda = _assigned(text, "cuda")
    if version is None:
        raise ProfilerError(f"{folder} does not say which torch it is; the simulated GPU is used instead")
    if cuda is None or not (folder / "lib" / "libtorch_cuda.so").is_file():
        raise ProfilerError(f"torch {version} is no CUDA build; the simulated GPU is used instead")
    major = int(cuda.split(".")[0])
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if major not in CUDA_MAJORS or not OLDEST <= numbers <= NEWEST:
        raise ProfilerError(
            f"torch {version} for CUDA {cuda} is not known to the virtual GPU (torch 2.6 to 2.14, CUDA 12"
            " and 13); the simulated GPU is used instead"
        )
    return Installation(folder, version, major)


def _assigned(text: str, name: str) -> str | None:
    found = re.search(rf"^{name}\s*(?::[^=\n]*)?=\s*'([^']+)'", text, re.MULTILINE)
    return found.group(1) if found else None
