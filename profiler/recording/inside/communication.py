"""What an allocation of torch.distributed is for: told by the function of torch that asked for it."""

from __future__ import annotations

import os
import sys
from types import CodeType, FrameType

ALL_GATHER = "all_gather_buffers"
UNSHARDED = "unsharded_parameters"
REDUCE_SCATTER = "reduce_scatter_buffers"
BUCKETS = "ddp_buckets"
OTHER = "communication_buffers"

_ANY = ""
# By file and function of torch/distributed and torch/nn/parallel, as versions 2.4 to 2.14 name them.
_ROLES = {
    ("_fsdp_collectives.py", "foreach_all_gather"): ALL_GATHER,
    ("_fsdp_collectives.py", "foreach_all_gather_copy_out"): UNSHARDED,
    ("_fsdp_collectives.py", "foreach_reduce"): REDUCE_SCATTER,
    ("_fsdp_param.py", "init_all_gather_outputs"): UNSHARDED,
    ("_fsdp_param.py", "alloc_all_gather_outputs"): UNSHARDED,
    ("_fsdp_param.py", "init_unsharded_param"): UNSHARDED,
    ("_flat_param.py", "_alloc_padded_unsharded_flat_param"): UNSHARDED,
    ("_flat_param.py", "_use_low_precision_shard"): ALL_GATHER,
    ("_runtime_utils.py", "_reduce_grad"): REDUCE_SCATTER,
    ("distributed.py", "_ddp_init_helper"): BUCKETS,
    ("distributed.py", "_pre_forward"): BUCKETS,  # where the reducer makes its buckets again
    ("distributed_c10d.py", _ANY): OTHER,
    ("_functional_collectives.py", _ANY): OTHER,
}
_FOLDERS = ("/torch/distributed/", "/torch/nn/parallel/")
_MOST_FRAMES = 16  # between the allocation and the function that is looked for

_known: dict[int, tuple[str, CodeType]] = {}  # by the number of the code, which is kept: its hash takes long


def between_ranks() -> bool:
    """Whether this process has joined a process group."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and distributed.is_initialized()


def rank() -> str:
    """This process's number among the ranks: the process group's own, else torchrun's RANK, "" for none."""
    if between_ranks():
        return str(sys.modules["torch.distributed"].get_rank())
    return os.environ.get("RANK", "")


def role() -> str:
    """What the allocation that happens now is for, "" if torch.distributed has not asked for it."""
    if not between_ranks():
        return ""
    frame: FrameType | None = sys._getframe(1)
    for _ in range(_MOST_FRAMES):
        if frame is None:
            return ""
        found = _role_of(frame.f_code)
        if found:
            return found
        frame = frame.f_back
    return ""


def _role_of(code: CodeType) -> str:
    known = _known.get(id(code))
    if known is None:
        file = code.co_filename.rpartition("/")[2]
        ours = any(folder in code.co_filename for folder in _FOLDERS)
        found = _ROLES.get((file, code.co_name)) or _ROLES.get((file, _ANY)) or ""
        known = _known[id(code)] = found if ours else "", code
    return known[0]
