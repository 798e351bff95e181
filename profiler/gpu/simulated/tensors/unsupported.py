"""What torch calls the simulated device; its errors, with the line of the user's program that met them."""

import linecache
import sys
from pathlib import Path
from types import FrameType

import torch

_OWN = Path(__file__).parents[3]
_LIBRARY_FOLDERS = (str(Path(torch.__file__).parent), str(_OWN / "gpu"), str(_OWN / "recording"))

DEVICE_TYPE = "simgpu"
ON_THE_VIRTUAL_GPU = "the virtual GPU runs it: profiler on GPU -- python FILE"


class UnsupportedOperation(RuntimeError):
    """The simulated device cannot answer: the operation needs values, or its memory behaviour is
    not modelled.
    """

    def __init__(self, op: str, reason: str) -> None:
        self.op = op
        self.line = user_line()
        super().__init__(f"{op}: {reason} (at {self.line}); {ON_THE_VIRTUAL_GPU}")


def user_line() -> str:
    """The innermost line of the running Python stack outside PyTorch and this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        filename = frame.f_code.co_filename
        if not filename.startswith((*_LIBRARY_FOLDERS, "<")):
            text = linecache.getline(filename, frame.f_lineno).strip()
            return f"{filename}:{frame.f_lineno}: {text}"
        frame = frame.f_back
    return "backward pass: no Python line"
