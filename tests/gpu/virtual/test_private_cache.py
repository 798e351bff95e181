"""The cache of compiled files: whole, private, and made once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profiler.errors import ProfilerError
from profiler.gpu.virtual.private_cache import cached
from tests.support.virtual_gpu import REPOSITORY


def make(folder: Path) -> list[str]:
    (folder / "b.so").write_text("second")
    (folder / "a.so").write_text("first")
    return ["b.so", "a.so"]


def never(folder: Path) -> list[str]:
    raise AssertionError(f"{folder} is made again")


def test_files_are_made_once_and_keep_their_order(tmp_path):
    first = cached(tmp_path / "cache", "key", make)
    assert [path.name for path in first] == ["b.so", "a.so"]
    assert cached(tmp_path / "cache", "key", never) == first
    assert first[0].stat().st_mode & 0o777 == 0o600
    assert first[0].parent.stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def change(folder: Path) -> None:
    (folder / "a.so").write_text("other")


def add(folder: Path) -> None:
    (folder / "c.so").write_text("more")


def remove(folder: Path) -> None:
    (folder / "a.so").unlink()


def link(folder: Path) -> None:
    (folder / "a.so").rename(folder.parent / "elsewhere")
    (folder / "a.so").symlink_to(folder.parent / "elsewhere")


def open_to_all(folder: Path) -> None:
    (folder / "a.so").chmod(0o666)


def break_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[]")


@pytest.mark.parametrize("tamper", [change, add, remove, link, open_to_all, break_manifest])
def test_what_was_changed_is_not_used(tmp_path, tamper):
    (first, *_) = cached(tmp_path, "key", make)
    tamper(first.parent)
    with pytest.raises(ProfilerError, match="remove it and run again"):
        cached(tmp_path, "key", never)


def test_a_cache_that_others_may_write_is_refused(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(ProfilerError, match="written by others"):
        cached(tmp_path, "key", never)


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(AssertionError):
        cached(tmp_path, "key", never)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_end_with_the_same_files(tmp_path):
    code = """
import sys, time
from pathlib import Path
from profiler.gpu.virtual.private_cache import cached
def make(folder):
    (folder / "a.so").write_text(sys.argv[2])
    time.sleep(0.5)
    return ["a.so"]
print(cached(Path(sys.argv[1]), "key", make)[0].read_text())
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path, name], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
        )
        for name in ("one", "two")
    ]
    said = [process.communicate(timeout=60)[0].strip() for process in started]
    assert [process.returncode for process in started] == [0, 0]
    assert len(set(said)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
