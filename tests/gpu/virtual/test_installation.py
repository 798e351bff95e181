"""Which torch the virtual GPU takes, and what it says of the others. Nothing here needs torch."""

from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.virtual.installation import find_torch, read_installation


def torch_package(folder: Path, version: str, cuda: str | None) -> Path:
    """A package that looks like torch to who reads its files."""
    package = folder / "torch"
    (package / "lib").mkdir(parents=True)
    (package / "version.py").write_text(
        f"from typing import Optional\n__version__ = '{version}'\ndebug = False\n"
        f"cuda: Optional[str] = {cuda!r}\nhip: Optional[str] = None\n"
    )
    if cuda:
        (package / "lib" / "libtorch_cuda.so").touch()
    return package


@pytest.mark.parametrize(
    ("version", "cuda", "major"), [("2.6.0+cu124", "12.4", 12), ("2.14.1+cu130", "13.0", 13)]
)
def test_cuda_builds_are_read_from_their_files(tmp_path, version, cuda, major):
    torch_package(tmp_path, version, cuda)
    found = find_torch((tmp_path / "nothing", tmp_path))
    assert (found.version, found.cuda_major) == (version, major)
    assert [path.name for path in found.libraries] == ["libtorch_cuda.so"]


@pytest.mark.parametrize(
    ("version", "cuda", "says"),
    [
        ("2.14.1", None, "torch 2.14.1 is no CUDA build; the simulated GPU is used instead"),
        ("2.14.1+cu118", "11.8", "torch 2.14.1\\+cu118 for CUDA 11.8 is not known"),
        ("2.15.0+cu130", "13.0", "torch 2.15.0\\+cu130 for CUDA 13.0 is not known"),
        ("2.5.1+cu124", "12.4", "torch 2.5.1\\+cu124 for CUDA 12.4 is not known"),
    ],
)
def test_others_are_refused_in_one_line(tmp_path, version, cuda, says):
    with pytest.raises(ProfilerError, match=says) as raised:
        read_installation(torch_package(tmp_path, version, cuda))
    assert "\n" not in str(raised.value)
    assert "simulated GPU" in str(raised.value)
