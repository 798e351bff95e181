"""A program's own peak counters, which nobody but itself resets."""

import torch


def never_reset():
    """Four layers of 4 MiB over 65,536 x 1024 floats, 256 MiB each."""
    model = torch.nn.Sequential(*[torch.nn.Linear(1024, 1024) for _ in range(4)]).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(65536, 1024, device="cuda")
    seen = []
    for _ in range(2):
        optimizer.zero_grad(set_to_none=True)
        model(x).sum().backward()
        seen.append(torch.cuda.max_memory_allocated())
        optimizer.step()
        seen.append(torch.cuda.max_memory_allocated())
    assert seen == [1_648_641_024] * 4, seen
