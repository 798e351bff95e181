"""Loaded into a lone rank's program (profiler.gpu.virtual.inside): on the CPU it has no peers either.

NCCL's stand-in answers for the ranks that are not there. Gloo would connect to them, and objects would come
from them; both answer by the same rule here: every rank has what this one has.

Imported by path, so that its modules import each other relatively, and beside them nothing but torch.
"""


def install() -> None:
    """Answer for the other ranks in this process. Called once torch is imported."""
    import torch

    if torch.distributed.is_available():
        from .gloo import stand_in_for_gloo
        from .objects import keep_own_objects

        stand_in_for_gloo()
        keep_own_objects()
