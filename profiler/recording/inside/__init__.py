"""Loaded into a program on the virtual GPU (profiler.gpu.virtual.inside): `install()` begins to watch it.

The program may have a `profiler` of its own: ours is imported beside it, and leaves no name behind.
"""

import sys
from pathlib import Path

_OURS = str(Path(__file__).parents[3])


def install() -> None:
    """Watch this process until it ends; see profiler.recording.inside.program."""
    theirs = _take_away()
    sys.path.insert(0, _OURS)
    try:
        from profiler.recording.inside.program import watch
    finally:
        sys.path.remove(_OURS)
        _take_away()
        sys.modules.update(theirs)
    watch()


def _take_away() -> dict:
    names = [name for name in sys.modules if name == "profiler" or name.startswith("profiler.")]
    return {name: sys.modules.pop(name) for name in names}
