"""pytorch/pytorch#123548, and a loss over a vocabulary of 248,320 words."""

import torch
from torch.nn import functional as F

MIB = 2**20


def two_large_and_one_small():
    """Large blocks come and go, small ones stay: reserved after 0, 20, ... 100 rounds.

    With max_split_size_mb:20,expandable_segments:True it is 220, 2980, 5760, 8520, 11300 and 14060 MiB.
    """
    base, kept, reserved = torch.empty(64 * MIB, dtype=torch.uint8, device="cuda"), [], []
    for i in range(101):
        a = torch.empty(91 * MIB, dtype=torch.uint8, device="cuda")
        b = torch.empty(91 * MIB // 2, dtype=torch.uint8, device="cuda")
        kept.append(torch.empty(2 * MIB, dtype=torch.uint8, device="cuda"))
        del a, b
        if i % 20 == 0:
            reserved.append(torch.cuda.memory_reserved() // MIB)
    del base
    print("two_large_and_one_small", f"reserved_mib={reserved}", flush=True)


def loss_of_a_large_vocabulary():
    """16,384 tokens of width 2048 in bfloat16, the loss in float32; H100: 51,057,394,688 B at most."""
    hidden = torch.randn(16384, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    weight = torch.randn(248320, 2048, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    wanted = torch.randint(0, 248320, (16384,), device="cuda")
    for _ in range(3):
        torch.cuda.reset_peak_memory_stats()
        F.cross_entropy((hidden @ weight.t()).float(), wanted).backward()
