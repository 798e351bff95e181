"""The model on one rank of many, by torch's own means: DistributedDataParallel, ZeroRedundancyOptimizer and
fully_shard around the same training step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from profiler.errors import ProfilerError
from profiler.workload import FSDP2, PLAIN_OPTIMIZERS, ZERO1, Sharding, Workload

MakeOptimizer = Callable[[Sequence[torch.Tensor]], torch.optim.Optimizer]


@contextmanager
def process_group(sharding: Sharding | None) -> Iterator[None]:
    """Inside, this process is the rank that its environment says, as torchrun would have it; without a
    sharding nothing is joined.
    """
    if sharding is None:
        yield
        return
    torch.cuda.set_device(0)
    distributed.init_process_group("nccl")
    try:
        yield
    finally:
        distributed.destroy_process_group()


def placed(model: torch.nn.Module, device: torch.device, sharding: Sharding | None) -> torch.nn.Module:
    """What the training step calls: the model on its device, sharded, or wrapped in what averages gradients.

    Its parameters are afterwards this rank's.
    """
    if sharding is None:
        return model.to(device)
    if sharding.kind == FSDP2:
        from torch.distributed.fsdp import fully_shard

        for unit in units(model):
            fully_shard(unit)
        fully_shard(model)  # what is on the CPU still goes to the device unit by unit
        return model
    from torch.nn.parallel import DistributedDataParallel

    return DistributedDataParallel(model.to(device), device_ids=[torch.cuda.current_device()])


def units(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The modules that FSDP2 shards each by itself: the members of the outermost lists, as layers are."""
    found: list[torch.nn.Module] = []
    pending = [model]
    while pending:
        module = pending.pop(0)
        if isinstance(module, torch.nn.ModuleList | torch.nn.Sequential) and len(module) > 1:
            found += [child for child in module if any(True for _ in child.parameters())]
        else:
            pending += module.children()
    return found


def sharded_optimizer(
    workload: Workload, parameters: Sequence[torch.Tensor], make: MakeOptimizer, sharding: Sharding
) -> torch.optim.Optimizer:
    """The optimizer of one rank; `make` makes it over some of the parameters.

    Raises ProfilerError for a workload whose optimizer is not made for that.
    """
    if workload.optimizer not in PLAIN_OPTIMIZERS or workload.precision == "fp16_master":
        raise ProfilerError(
            f"ranks share {', '.join(PLAIN_OPTIMIZERS)} without fp16_master, not {workload.optimizer} with "
            f"{workload.precision}"
        )
    if sharding.kind != ZERO1:
        return make(parameters)
    from torch.distributed.optim import ZeroRedundancyOptimizer

    def of_this_rank(its_own: Any, **options: Any) -> torch.optim.Optimizer:
        return make(its_own)

    one: Any = of_this_rank  # anything that can be called with parameters
    return ZeroRedundancyOptimizer(parameters, one)


def holder_of_states(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Whose `state` has this rank's part: the optimizer, or the one inside a ZeroRedundancyOptimizer."""
    return getattr(optimizer, "optim", optimizer)
