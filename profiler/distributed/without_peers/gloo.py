"""Gloo without peers: torch's process group that talks to nobody, as if all ranks were as this one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch._C._distributed_c10d import FakeProcessGroup
from torch.distributed import ProcessGroup, ReduceOp, distributed_c10d

_CPU = torch.device("cpu")
_FAKE: Any = FakeProcessGroup  # made in another way by each few versions of torch
_SUMS = (
    "allreduce",
    "allreduce_coalesced",
    "reduce",
    "reduce_scatter",
    "_reduce_scatter_base",
    "reduce_scatter_single",
)


class _Kind(type):
    def __instancecheck__(cls, group: object) -> bool:
        return isinstance(group, FakeProcessGroup)


class _Gloo(metaclass=_Kind):
    """What torch.distributed calls to make a group of Gloo's, and takes the group to be."""

    def __new__(cls, store: object, rank: int, size: int, *rest: object, **keywords: object) -> Any:
        if hasattr(_FAKE, "_create_internal"):  # torch 2.9 and later
            return _FAKE._create_internal(rank, size, _FAKE.Options())
        return _FAKE(rank, size)


def stand_in_for_gloo() -> None:
    """Let groups that this process makes for Gloo from now on talk to nobody.

    A gather repeats this rank's part, a sum is so many times its value; what is broadcast, scattered or sent
    by another rank is what was there.
    """
    if not distributed_c10d.is_gloo_available():
        return
    distributed_c10d.ProcessGroupGloo = _Gloo  # type: ignore[misc]
    _FAKE._set_sequence_number_for_group = lambda group: None
    for name in _SUMS:
        if hasattr(ProcessGroup, name):
            setattr(ProcessGroup, name, _summed(getattr(ProcessGroup, name)))
    for name, then in (("gather", _repeat), ("scatter", _own_part), ("monitored_barrier", None)):
        setattr(ProcessGroup, name, _answered(getattr(ProcessGroup, name), then))


def _alone(group: ProcessGroup, tensors: list[torch.Tensor]) -> bool:
    """Whether these are on the CPU, where nobody answers in that group."""
    if any(tensor.device != _CPU for tensor in tensors) or _CPU not in group._device_types:
        return False
    return isinstance(group._get_backend(_CPU), FakeProcessGroup)


def _flat(tensors: Any) -> Iterator[torch.Tensor]:
    if isinstance(tensors, torch.Tensor):
        yield tensors
    elif isinstance(tensors, list | tuple):
        for each in tensors:
            yield from _flat(each)


def _summed(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method that adds up over all ranks what it leaves in its first argument."""

    @functools.wraps(method)
    def run(group: ProcessGroup, results: Any, *rest: Any, **keywords: Any) -> Any:
        work = method(group, results, *rest, **keywords)
        tensors = list(_flat(results))
        if _alone(group, tensors):
            options = [*rest, *keywords.values()]
            root = next((o.rootRank for o in options if hasattr(o, "rootRank")), group.rank())
            operation = next((getattr(o, "reduceOp", o) for o in options if _reduces(o)), ReduceOp.SUM)
            if root == group.rank():
                for tensor in tensors:
                    _reduce(tensor, operation, group.size())
        return work

    return run


def _reduces(option: Any) -> bool:
    return hasattr(option, "reduceOp") or isinstance(option, ReduceOp | ReduceOp.RedOpType)


def _reduce(tensor: torch.Tensor, operation: Any, ranks: int) -> None:
    """What `ranks` times the same gives; a minimum, a maximum or an average is as it was."""
    with torch.no_grad():
        if operation == ReduceOp.SUM and tensor.dtype != torch.bool:
            tensor.mul_(ranks)
        elif operation == ReduceOp.PRODUCT and tensor.dtype != torch.bool:
            tensor.pow_(ranks)
        elif operation == ReduceOp.BXOR and ranks % 2 == 0:
            tensor.zero_()


def _repeat(rank: int, gathered: Any, given: Any) -> None:
    for result in _flat(gathered):  # none but at the root
        result.copy_(given[0])


def _own_part(rank: int, received: Any, given: Any) -> None:
    if given:  # at the root
        received[0].copy_(given[0][rank])


def _answered(method: Callable[..., Any], then: Callable[[int, Any, Any], None] | None) -> Callable[..., Any]:
    """A method that torch's group without peers leaves unanswered in some versions (2.6), or has not."""

    @functools.wraps(method)
    def run(group: ProcessGroup, *arguments: Any, **keywords: Any) -> Any:
        if not _alone(group, list(_flat(arguments))):
            return method(group, *arguments, **keywords)
        if then is None:
            return None
        work = method(group, *arguments, **keywords)
        with torch.no_grad():
            then(group.rank(), *arguments[:2])
        return work

    return run
