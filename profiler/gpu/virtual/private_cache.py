"""A folder of compiled files that is the user's alone: made whole or not at all, checked before every use."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from profiler.errors import ProfilerError

_MANIFEST = "manifest.json"
_LARGEST_FILE_BYTES = 64 << 20


def default_cache() -> Path:
    """$XDG_CACHE_HOME/everybyte/virtual_gpu, below ~/.cache if that is not set."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "everybyte" / "virtual_gpu"


def cached(cache: Path, key: str, make: Callable[[Path], list[str]]) -> tuple[Path, ...]:
    """The files under that key, in order; `make` writes them to a folder and names them if there are none.

    Several processes may ask at once: each makes a folder of its own, and the first to be done names it.
    Raises ProfilerError if the cache is not private, or its files are not as they were made.
    """
    _make_private(cache)
    folder = cache / key
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building.") as name:
            building = Path(name) / "whole"
            building.mkdir(mode=0o700)
            _write_manifest(building, make(building))
            try:
                building.rename(folder)
            except OSError:
                if not folder.exists():  # otherwise another process was first
                    raise
    return _checked(folder)


def _write_manifest(folder: Path, names: list[str]) -> None:
    manifest = folder / _MANIFEST
    manifest.write_text(json.dumps({name: _hash(folder / name) for name in names}, indent=1))
    for path in folder.iterdir():
        path.chmod(0o600)


def _make_private(cache: Path) -> None:
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ProfilerError(
            f"cannot make the cache {cache} ({error.strerror}); set XDG_CACHE_HOME"
        ) from error
    _check_owner(cache)


def _check_owner(path: Path) -> None:
    """Raise ProfilerError unless `path` is the user's, no link, and nobody else may write it."""
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ProfilerError(f"{path} may be written by others than you; remove it and run again")


def _checked(folder: Path) -> tuple[Path, ...]:
    _check_owner(folder)
    manifest = folder / _MANIFEST
    try:
        _check_owner(manifest)
        hashes: dict[str, str] = json.loads(manifest.read_text())
        whole = {path.name for path in folder.iterdir()} == {*hashes, _MANIFEST}
        for name, expected in hashes.items() if whole else ():
            path = folder / name
            _check_owner(path)
            whole = whole and path.stat().st_size <= _LARGEST_FILE_BYTES and _hash(path) == expected
    except (OSError, ValueError, AttributeError):
        whole = False
    if not whole:
        raise ProfilerError(f"{folder} is not as it was compiled; remove it and run again")
    return tuple(folder / name for name in hashes)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
