"""Residual networks of torchvision whose peaks others recorded."""

import torch
from torch.nn import functional as F


def _resnet50(optimizer_of, accumulate=1):
    """One image of 224 pixels, ten steps, soft labels; recorded on an A10G."""
    from torchvision.models import resnet50

    model = resnet50().cuda()
    x = torch.randn(1, 3, 224, 224, device="cuda")
    y = torch.rand_like(model(x))
    optimizer = optimizer_of(model.parameters())
    for i in range(10):
        F.cross_entropy(model(x), y).backward()
        if i % accumulate == accumulate - 1:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def resnet50_sgd():
    _resnet50(torch.optim.SGD)


def resnet50_momentum():
    _resnet50(lambda parameters: torch.optim.SGD(parameters, momentum=0.9))


def resnet50_adam():
    _resnet50(torch.optim.Adam)


def resnet50_adam_accumulating():
    _resnet50(torch.optim.Adam, 4)


def resnet101_adamw():
    """databricks/flashoptim#1, H100: 16 images, AdamW with foreach, 1,686.6 MB after three steps."""
    from torchvision.models import resnet101

    model = resnet101(num_classes=1000).cuda().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2, foreach=True)
    x, y = torch.randn(16, 3, 224, 224, device="cuda"), torch.randint(0, 1000, (16,), device="cuda")
    for i in range(5):
        if i == 3:
            torch.cuda.reset_peak_memory_stats()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
