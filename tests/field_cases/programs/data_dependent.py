"""Sizes and branches that depend on values which are not computed."""

import torch
from torch import nn


def _loss(rows):
    rows.square().mean().backward()


def boolean_mask():
    """The largest result: 4096 rows of 512 stay."""
    y = nn.Linear(256, 512).cuda()(torch.randn(4096, 256, device="cuda"))
    _loss(y[y.sum(1) < 2.0])


def nonzero():
    y = nn.Linear(256, 512).cuda()(torch.randn(4096, 256, device="cuda"))
    assert y.nonzero().shape[1] == 2


def unique_of_outputs():
    y = nn.Linear(256, 16).cuda()(torch.randn(64, 256, device="cuda"))
    assert torch.unique(y.round()).numel() > 0


def branch_on_a_float():
    y = nn.Linear(256, 256).cuda()(torch.randn(8, 256, device="cuda"))
    _loss(y if y.mean() > 0 else -y)


def lazy_module():
    model = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(8)).cuda()
    _loss(model(torch.randn(8, 32, device="cuda")))


def padding_mask_of_integers():
    ids = torch.arange(64, device="cuda").view(8, 8) % 7
    embedded = nn.Embedding(8, 32).cuda()(ids)
    _loss(embedded[ids != 0])
