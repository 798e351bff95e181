"""The program of one rank: two training steps of a tower of linear layers, sharded in one way.

python -m experiments.ranks.step WAY LAYERS WIDTH; prints bytes as JSON: {"lasting": ..., "backward": ...}
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel


def two_steps(way: str, layers: int, width: int) -> None:
    """Train under "ddp", "ddp_views", "zero1" or "fsdp2"; the second step is the one that is read."""
    dist.init_process_group("nccl")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with torch.device("meta"):
        model = torch.nn.Sequential(*(torch.nn.Linear(width, width, bias=False) for _ in range(layers)))
    if way == "fsdp2":
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
    model.to_empty(device="cuda")
    trained: torch.nn.Module = model
    if way != "fsdp2":
        trained = DistributedDataParallel(model, gradient_as_bucket_view=way == "ddp_views")
    optimizer: torch.optim.Optimizer
    if way == "zero1":
        optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.AdamW, lr=1e-3, foreach=False)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=False)
    batch = torch.zeros(1, width, device="cuda")
    for _ in range(2):
        optimizer.zero_grad(set_to_none=False)
        loss = trained(batch).sum()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        loss.backward()
        backward_bytes = torch.cuda.max_memory_allocated()
        optimizer.step()
        del loss
        torch.cuda.synchronize()
        # ProcessGroupNCCL lets go of what an all-reduce has used when its watchdog looks again, which it does
        # ten times a second; a step on a GPU takes longer than that
        time.sleep(0.3)
    print(json.dumps({"lasting": torch.cuda.memory_allocated(), "backward": backward_bytes}))


if __name__ == "__main__":
    two_steps(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
