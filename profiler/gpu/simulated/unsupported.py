"""The errors of the simulated device, with the line of the user's program that met them."""

import traceback
from pathlib import Path

import torch

_LIBRARY_FOLDERS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))


class UnsupportedOperation(RuntimeError):
    """The simulated device cannot answer: the operation needs values, or its memory behaviour is
    not modelled.
    """

    def __init__(self, op: str, reason: str) -> None:
        self.op = op
        self.line = user_line()
        super().__init__(f"{op}: {reason} (at {self.line})")


def user_line() -> str:
    """The innermost line of the running Python stack outside PyTorch and this package."""
    for frame in reversed(traceback.extract_stack()):
        if not frame.filename.startswith((*_LIBRARY_FOLDERS, "<")):
            return f"{frame.filename}:{frame.lineno}: {frame.line}"
    return "backward pass: no Python line"
