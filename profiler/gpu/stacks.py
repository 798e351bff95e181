"""What a recorded stack says of its allocation: the operation, and the node or the line it ran for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import PurePosixPath

from profiler.gpu.trace_events import Frame

# In C++ frames (present with `stacks="all"`): `at::_ops::NAME::call`, and the node of a backward pass.
_OPERATION = re.compile(r"at::_ops::(\w+)::(?:call|redispatch)")
_NODE = re.compile(r"torch::autograd::(?:generated::)?(\w+)::apply\(")
UNKNOWN = "no recorded frame"
# Operations that only make a tensor: the one that wanted it says more.
_FACTORIES = (
    "empty",
    "new_empty",
    "resize_",
    "zeros",
    "new_zeros",
    "zero_",
    "_to_copy",
    "clone",
    "contiguous",
)


def origin(frames: Sequence[Frame]) -> str:
    """As in "mm, AddmmBackward0" or "softmax, model.py:81 attention"; what is not recorded is left out.

    `frames` has the innermost call first.
    """
    operation = node = line = ""
    fallback = ""
    for frame in frames:
        found, kind = _read(frame)
        if kind == "operation" and not operation:
            fallback = fallback or found
            if not found.startswith(_FACTORIES):
                operation = found
        elif kind == "node" and not node:
            node = found
        elif kind == "line" and not line:
            line = found
    words = [word for word in (operation or fallback, node or line) if word]
    return ", ".join(words) or UNKNOWN


@cache
def _read(frame: Frame) -> tuple[str, str]:
    """What one frame says, and of which kind: operation, node, line of the user, or "" for nothing."""
    if frame.filename.endswith(".py"):
        path = PurePosixPath(frame.filename.replace("\\", "/"))
        if "torch" in path.parts and ("site-packages" in path.parts or "dist-packages" in path.parts):
            return "", ""
        return f"{path.name}:{frame.line} {frame.name}", "line"
    if match := _OPERATION.search(frame.name):
        return match[1], "operation"
    if match := _NODE.search(frame.name):
        return match[1], "node"
    return "", ""
